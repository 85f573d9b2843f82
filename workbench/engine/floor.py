"""The least time an answer can take on a machine: the bytes it must read, at measured bandwidth.

Every forward pass reads each weight once (but of the embedding table only a few rows, and of
experts no more than one token has) and the keys and values of every token before it that a layer
sees. Arithmetic, writing and everything else count as free, so no engine gets below this.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.cells.tensors import LayerShape

EXPERTS = re.compile(r"(^|\.)experts\.")  # names of weights that are read as tokens choose them
NEIGHBOURS = 128  # bytes between two weights that are read as one
SPELL = 3  # readings in a row; a process that has just been idle is slow for the first


@dataclass(frozen=True)
class Floor:
    """What one forward pass of a model must read.

    Attributes:
        weight_bytes: all weights that every forward uses.
        kv_bytes_per_token: keys and values of one token, in all layers that see every token.
        windows: of layers that see the latest tokens alone, how many those are, and their keys' and
            values' bytes of one token.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    windows: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, model: PreTrainedModel, layers: Iterable[LayerShape] | None = None) -> Floor:
        """The floor of a loaded transformers decoder; ``layers`` are those that keep something,
        as its configuration has them if not given."""
        config = model.config.get_text_config(decoder=True)
        table = next(model.get_input_embeddings().parameters())
        head = model.get_output_embeddings()
        is_tied = head is not None and any(p is table for p in head.parameters())
        share = share_of_experts(config)
        weights = [
            p.nbytes * (share if EXPERTS.search(name) else 1)
            for name, p in model.named_parameters()
            if p is not table or is_tied
        ]
        shapes = shapes_of(config) if layers is None else list(layers)
        sizes = [(shape.window, shape.bytes_per_cell(model.dtype)) for shape in shapes]
        return cls(
            weight_bytes=int(sum(weights)),
            kv_bytes_per_token=sum(size for window, size in sizes if window is None),
            windows=tuple((window, size) for window, size in sizes if window is not None),
        )

    def bytes_read(self, context: int, question: int, forwards: int) -> int:
        """Bytes that an answer must read.

        Args:
            context: tokens that are in the cache before the question.
            question: tokens of the question, all run in the first forward.
            forwards: how many there are; each after the first adds one token.
        """
        tokens = [context + question + step for step in range(forwards)]
        seen = sum(min(each, window) * size for each in tokens for window, size in self.windows)
        return forwards * self.weight_bytes + self.kv_bytes_per_token * sum(tokens) + seen

    def ms(self, context: int, question: int, forwards: int, bandwidth: float) -> float:
        """The same in milliseconds, at ``bandwidth`` bytes per second."""
        return self.bytes_read(context, question, forwards) / bandwidth * 1e3


def share_of_experts(config: Any) -> float:
    """Of a mixture's experts, those that one token has."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((found for name in names if (found := getattr(config, name, None))), None)
    used = getattr(config, "num_experts_per_tok", None)
    return min(1.0, used / experts) if experts and used else 1.0


def shapes_of(config: Any) -> list[LayerShape]:
    """What each layer keeps, by a configuration."""
    heads, queries = config.num_key_value_heads, config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    window = getattr(config, "sliding_window", None)
    every = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(config, "layer_types", None) or [every] * config.num_hidden_layers
    return [
        LayerShape(queries, heads, dim, dim, window if kind == "sliding_attention" else None)
        for kind in kinds
    ]


def weights_bandwidth(
    weights: Sequence[Tensor],
    repeats: int = 9,
    pick: Callable[[Sequence[float]], float] = statistics.median,
) -> float:
    """Bytes per second that torch's threads read these very tensors, all of them in turn.

    A virtual machine's memory is not all equally fast, so what a model can do at best depends on
    where its weights came to lie.

    Args:
        weights: what is read.
        repeats: readings, after some that are not counted.
        pick: which of their seconds counts; ``min`` on a machine that does other things too.
    """
    words = _stretches(weights)
    taken = []
    for _ in range(SPELL + repeats):
        began = time.perf_counter()
        for part in words:
            part.amax()
        if words and words[0].is_cuda:
            torch.cuda.synchronize(words[0].device)
        taken.append(time.perf_counter() - began)
    return sum(part.nbytes for part in words) / pick(taken[SPELL:])


def _stretches(weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights as words; those that lie side by side as one, so that few calls read them all."""
    spans: list[list[int]] = []  # start and end in bytes, and a weight whose storage it is
    order = sorted(range(len(weights)), key=lambda i: weights[i].data_ptr())
    for i in order:
        start, storage = weights[i].data_ptr(), weights[i].untyped_storage().data_ptr()
        end = start + weights[i].nbytes
        last = spans[-1] if spans else [0, -NEIGHBOURS, i]
        same = weights[last[2]].untyped_storage().data_ptr() == storage
        if same and start - last[1] < NEIGHBOURS:
            last[1] = max(last[1], end)
        else:
            spans.append([start, end, i])
    found = []
    for start, end, i in spans:
        whole = torch.empty(0, dtype=torch.uint8, device=weights[i].device)
        held = weights[i].untyped_storage()
        whole.set_(held, start - held.data_ptr(), (end - start,), (1,))
        found.append(whole[: (end - start) // 4 * 4].view(torch.int32))
    return found
