"""What the weights begin as: heads that look back a token or two, heads that copy what came next.

To answer from its context, a model has to find the place that the question means and copy what is
written there. The circuit for that, a head that tells each token which one stood before it and a
later head that looks for a place by it ("induction", arXiv 2209.11895), is the last thing that
gradients find in a short run. Here it is written into ordinary weights of an ordinary Llama before
the first step, as others begin from weights that look like trained ones (arXiv 2305.09828);
training is free to change all of it. LOG.md, 13, says what it gains.

The residual stream begins in four parts: number 0 is one constant, with which heads attend by
distance alone; the first half holds the token's own embedding; a quarter each is for the token
before it and for the one before that.
"""

from __future__ import annotations

import math
from typing import Any

import torch

CONSTANT = 0.56  # number 0 of every embedding, as a share of the size of the rest
QUIET = 0.2  # of the usual size of what layers write, so that the parts stay readable
WRITTEN = 0.7  # size of what a looking back head writes, as a share of an embedding's
SHARP = 5.0  # how far the score of the distance looked for stands out, per frequency
NEAR = 1.0  # how much nearer places are preferred, per frequency
MATCH = 10.0  # the score of a token that is the same


def begin(model: Any, seed: int) -> None:
    """Write the beginning into a fresh Llama of tied embeddings, 4 or more heads, 2 or more layers.

    Layer 0 looks back; every second layer between it and the last copies what came after a token.
    """
    config = model.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads < 4 or heads // shared < 2 or config.num_hidden_layers < 2:
        raise ValueError(
            f"expected 2 layers and 4 heads or more, 2 or more on each key head, got "
            f"{config.num_hidden_layers} layers, {heads} heads on {shared}"
        )
    generator = torch.Generator().manual_seed(seed)
    layers = model.model.layers
    with torch.no_grad():
        size = _part(model.model.embed_tokens.weight)
        for layer in layers:
            layer.self_attn.o_proj.weight *= QUIET
            layer.mlp.down_proj.weight *= QUIET
        read = _look_back(layers[0].self_attn, config, size, generator)
        for layer in layers[1 : max(2, len(layers) - 1) : 2]:
            _look_up(layer.self_attn, config, size, read)
            _copy(layer.self_attn, config, size, generator)


def _part(embedding: torch.Tensor) -> float:
    """Keep embeddings to the first half of the stream, with the constant; returns their size."""
    half = embedding.shape[1] // 2
    embedding[:, :half] *= math.sqrt(2)
    embedding[:, half:] = 0
    size = float(embedding[:, 1:].norm(dim=1).mean())
    embedding[:, 0] = CONSTANT * size
    return size


def _frequencies(config: Any) -> tuple[torch.Tensor, int, int]:
    """Radians a token of each rotary pair; the first ``a`` tell neighbours apart, those from ``b``
    hardly turn within a few rows, those between prefer what is near."""
    half = config.hidden_size // config.num_attention_heads // 2
    turns = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    return turns, max(1, half * 3 // 16), max(1, half * 3 // 8)


def _look_back(
    attention: Any, config: Any, size: float, generator: torch.Generator
) -> torch.Tensor:
    """Heads 0 and 1 write what stands one and two tokens before; returns what they read of an
    embedding, [head dim, half the stream]."""
    width, dim = config.hidden_size, config.hidden_size // config.num_attention_heads
    turns, sharp, _ = _frequencies(config)
    pairs, half = torch.arange(sharp), width // 2
    norm = size * math.hypot(1.0, CONSTANT) / math.sqrt(width)  # what the norm divides by
    weight = math.sqrt(SHARP * math.sqrt(dim)) / (CONSTANT * size / norm)
    own = size / norm / math.sqrt(half - 1)  # size of one number of an embedding after it
    read = torch.zeros(dim, half)
    drawn = torch.randn(half - 1, dim, generator=generator)
    read[:, 1:] = torch.linalg.qr(drawn)[0].T if dim < half else drawn.T / math.sqrt(half - 1)
    key, query = attention.k_proj.weight[:dim], attention.q_proj.weight
    key *= 0.3
    _only(key, pairs, dim // 2, weight, torch.zeros(sharp))
    attention.v_proj.weight[:dim] = 0
    attention.v_proj.weight[:dim, :half] = read
    for head in (0, 1):
        mine = slice(head * dim, (head + 1) * dim)
        query[mine] *= 0.3
        _only(query[mine], pairs, dim // 2, weight, -turns[:sharp] * (head + 1))
        out = torch.zeros(width, dim)
        quarter = width // 4
        begin, rows = half + head * quarter, torch.arange(min(dim, quarter))
        out[begin + rows, rows] = 2 * WRITTEN * size / math.sqrt(width) / own
        attention.o_proj.weight[:, mine] = out
    return read


def _look_up(attention: Any, config: Any, size: float, read: torch.Tensor) -> None:
    """Head 0 looks for the nearest place whose token before is this one; head 1 begins as looking
    near."""
    width, dim = config.hidden_size, config.hidden_size // config.num_attention_heads
    _, sharp, slow = _frequencies(config)
    half, quarter = width // 2, width // 4
    norm = size * math.sqrt(1 + CONSTANT**2 + 2 * WRITTEN**2) / math.sqrt(width)
    own = size / norm / math.sqrt(half - 1)
    before = WRITTEN * size / norm / math.sqrt(quarter)
    weight = math.sqrt(NEAR * math.sqrt(dim)) / (CONSTANT * size / norm)
    matching = [*range(slow, dim // 2), *range(slow + dim // 2, dim)]
    matching = [row for row in matching if row < quarter]
    near = torch.arange(sharp, slow)
    key, query = attention.k_proj.weight[:dim], attention.q_proj.weight
    key *= 0.3
    key[matching] = 0
    for row in matching:
        key[row, half + row] = 1 / before
    _only(key, near, dim // 2, weight, torch.zeros(len(near)))
    for head in (0, 1):
        mine = query[head * dim : (head + 1) * dim]
        mine *= 0.3
        if head == 0:
            mine[matching] = 0
            mine[matching, :half] = read[matching] / own * MATCH * math.sqrt(dim) / len(matching)
        _only(mine, near, dim // 2, weight, torch.zeros(len(near)))


def _copy(attention: Any, config: Any, size: float, generator: torch.Generator) -> None:
    """Head 0 writes the embedding that it reads, as far as its numbers hold it."""
    width, dim = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = width // 2
    drawn = torch.linalg.qr(torch.randn(width, dim, generator=generator))[0].T
    drawn[:, 0] = drawn[:, half:] = 0
    attention.v_proj.weight[:dim] = math.sqrt(2) * drawn
    attention.o_proj.weight[:, :dim] = drawn.T * size / math.sqrt(dim)


def _only(
    rows: torch.Tensor, pairs: torch.Tensor, half: int, weight: float, angles: torch.Tensor
) -> None:
    """These rotary pairs of ``rows`` read the constant alone, turned by ``angles``."""
    rows[pairs] = rows[pairs + half] = 0
    rows[pairs, 0] = weight * torch.cos(angles)
    rows[pairs + half, 0] = weight * torch.sin(angles)
