"""What a step says about the rows that were wanted; on a GPU the logits stay where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import workbench_kernels as kernels
from workbench.errors import QuestionError


class Scored(NamedTuple):
    """One row of logits, in natural-log probabilities.

    Attributes:
        token: the likeliest; the first of equals.
        logprob: its own.
        labels: those of the tokens that were to be scored after this row.
    """

    token: int
    logprob: float
    labels: list[float]


@dataclass(frozen=True)
class Logits:
    """The rows of a step that were kept.

    On a CPU a row is scored when it is asked for. On a GPU all were scored there, in one launch,
    and a few numbers a row have come back.

    Attributes:
        values: ``[kept, vocab]``, on the model's device.
        labels: per row the tokens to score after it.
        known: all rows' scores, where they were scored together.
    """

    values: Tensor
    labels: Sequence[Sequence[int]]
    known: Sequence[Scored] | None = None

    @classmethod
    def of(cls, values: Tensor, labels: Sequence[Sequence[int]]) -> Logits:
        """Those of a step; returns when the device has computed them."""
        if kernels.active(values.device) != "triton":
            return cls(values, labels)
        known = _score(values, labels)
        if values.is_cuda:
            # Also where no row was kept; not of the whole device, which others may be capturing.
            torch.cuda.current_stream(values.device).synchronize()
        return cls(values, labels, known)

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, sizes: Sequence[int]) -> list[Logits]:
        """Consecutive parts of so many rows each."""
        parts, at = [], 0
        for size in sizes:
            rows = slice(at, at + size)
            known = None if self.known is None else self.known[rows]
            parts.append(Logits(self.values[rows], self.labels[rows], known))
            at += size
        return parts

    def copied(self) -> Logits:
        """The same, which the next step does not overwrite."""
        return Logits(self.values.clone(), self.labels, self.known)

    def scored(self, row: int) -> Scored:
        """The likeliest token of a row, and what its labels score.

        Raises:
            QuestionError: the row has numbers that are not finite.
        """
        if self.known is not None:
            found = self.known[row]
        else:
            (found,) = _score(self.values[row : row + 1], [self.labels[row]])
        if not math.isfinite(found.logprob):
            raise _not_finite()
        return found

    def row(self, row: int) -> Tensor:
        """A row itself, float32 ``[vocab]`` on the host.

        Raises:
            QuestionError: it has numbers that are not finite.
        """
        values = self.values[row].float().cpu()
        if not math.isfinite(float(values.max())):
            raise _not_finite()
        return values


def _score(values: Tensor, labels: Sequence[Sequence[int]]) -> list[Scored]:
    """Every row's scores: one call of the kernel, and from a GPU one copy back."""
    table = None
    if width := max(map(len, labels), default=0):
        table = torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in labels])
        if values.is_cuda:
            table = table.pin_memory().to(values.device, non_blocking=True)
    scores = kernels.score(values, table)
    if kernels.active(values.device) != "triton":
        each = (scores.tokens.tolist(), scores.logprobs.tolist(), scores.labels.tolist(), labels)
        return [Scored(a, b, rest[: len(ids)]) for a, b, rest, ids in zip(*each, strict=True)]
    # Side by side as 32 bits each, so that one copy brings all of them.
    numbers = torch.cat([scores.logprobs[:, None], scores.labels], 1).view(torch.int32)
    packed = torch.cat([scores.tokens.int()[:, None], numbers], 1).cpu()
    tokens, logprobs = packed[:, 0].tolist(), packed[:, 1:].contiguous().view(torch.float32)
    return [
        Scored(token, first, rest[: len(ids)])
        for token, (first, *rest), ids in zip(tokens, logprobs.tolist(), labels, strict=True)
    ]


def _not_finite() -> QuestionError:
    msg = "the model returned logits that are not finite; try dtype='float32'"
    return QuestionError(msg)
