"""Scores of answers: the likeliest token of each row, and the log-probabilities of given ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """What is needed of each row of logits.

    Attributes:
        tokens: int64 ``[rows]``, the likeliest token; the first of equals.
        logprobs: float32 ``[rows]``, its natural-log probability.
        labels: float32 ``[rows, n]``, those of the labels; ``-inf`` where a label is padding.
    """

    tokens: Tensor
    logprobs: Tensor
    labels: Tensor


def score(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """Scores in plain torch, in float32, or float64 where the logits are.

    Args:
        logits: ``[rows, vocab]``.
        labels: int64 ``[rows, n]``; negative ones are padding. None: no labels.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    tokens = logits.argmax(dim=-1)
    if labels is None:
        labels = tokens.new_empty(len(tokens), 0)
    picked = logprobs.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -torch.inf)
    return Scores(tokens, logprobs.gather(1, tokens[:, None])[:, 0], picked)
