"""The end of a step: the last norm of the rows that were wanted, and scores of their logits."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench_kernels.native.library import load
from workbench_kernels.scores import Scores

MANY = 1 << 18  # logits that are worth a second thread


def norm_rows(x: Tensor, rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of some rows.

    Args:
        x: bfloat16 ``[n, size]``, contiguous; ``size`` is a multiple of 16.
        rows: int64, which of them.
        weight: bfloat16 ``[size]``.
        eps: added to the mean square.

    Returns:
        ``[len(rows), size]``.
    """
    library = load()[0]
    assert library is not None
    out = x.new_empty(len(rows), x.shape[-1])
    library.wb_norm(
        x.data_ptr(), rows.data_ptr(), weight.data_ptr(), eps, len(rows), x.shape[-1],
        out.data_ptr(),
    )  # fmt: skip
    return out


def scores_fit(logits: Tensor) -> bool:
    """Whether ``score`` can take these."""
    return logits.dtype == torch.float32 and logits.is_contiguous() and logits.shape[-1] > 0


def score(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """As ``scores.score``, for float32 logits that are contiguous."""
    library = load()[0]
    assert library is not None
    rows, vocab = logits.shape
    tokens = torch.empty(rows, dtype=torch.long)
    tops, totals = torch.empty(rows, dtype=torch.float32), torch.empty(rows, dtype=torch.float32)
    library.wb_score(
        logits.data_ptr(), rows, vocab, tokens.data_ptr(), tops.data_ptr(), totals.data_ptr(),
        torch.get_num_threads() if rows > 1 and rows * vocab > MANY else 1,
    )  # fmt: skip
    # exp(top - top) is among what is summed, so the likeliest token's own is what it lacks to 1.
    if labels is None:
        return Scores(tokens, -totals, logits.new_empty(rows, 0))
    own = logits.gather(1, labels.clamp(min=0)) - tops[:, None] - totals[:, None]
    return Scores(tokens, -totals, own.masked_fill(labels < 0, -torch.inf))
