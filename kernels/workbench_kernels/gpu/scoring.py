"""What an answer needs of the logits, which stay where they are: the best token, label scores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.gpu import checks
from workbench_kernels.scores import Scores

BLOCK = 4096  # entries of the vocabulary one step of the loop reads


def score(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """One pass over each row: argmax, log-sum-exp, and the labels' log-probabilities.

    Args:
        logits: ``[rows, vocab]``, each row contiguous; read as float32.
        labels: int64 ``[rows, n]``, token ids to score after each row; negative ones are padding.

    Returns:
        `Scores` on the logits' device.
    """
    rows, vocab = logits.shape
    if labels is None:
        labels = torch.empty(rows, 0, dtype=torch.int64, device=logits.device)
    checks.expect(logits.stride(1) == 1, "logits with each row contiguous",
                  f"strides {logits.stride()}")  # fmt: skip
    checks.expect(
        labels.dtype == torch.int64 and labels.dim() == 2 and len(labels) == rows
        and labels.device == logits.device,
        f"labels int64 [{rows}, n] on {logits.device}",
        f"{labels.dtype} {list(labels.shape)} on {labels.device}",
    )  # fmt: skip
    labels = labels.contiguous()
    num = labels.shape[1]
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    out = torch.empty(rows, num, dtype=torch.float32, device=logits.device)
    if rows:
        with torch.cuda.device_of(logits):
            score_kernel[(rows,)](
                logits, labels, tokens, logprobs, out, vocab, logits.stride(0), num,
                BLOCK=min(BLOCK, triton.next_power_of_2(vocab)),
                BLOCK_L=triton.next_power_of_2(num) if num else 0,
                num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
    return Scores(tokens, logprobs, out)


@triton.jit
def score_kernel(
    logits, labels, tokens, logprobs, out, vocab, logits_row, num,
    BLOCK: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """One row: program ``(row,)``."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_row
    top = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    best = tl.full([], 0, tl.int32)
    for first in range(0, vocab, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(logits + at, mask=at < vocab, other=-float("inf")).to(tl.float32)
        highest = tl.max(x, 0)
        # The first of equals: within a block by argmax, between blocks by the strict comparison.
        best = tl.where(highest > top, first + tl.argmax(x, 0), best)
        highest = tl.maximum(top, highest)
        base = tl.where(highest == -float("inf"), 0.0, highest)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base), 0)
        top = highest
    lse = top + tl.log(total)
    tl.store(tokens + row, best.to(tl.int64))
    tl.store(logprobs + row, top - lse)
    if BLOCK_L > 0:
        which = tl.arange(0, BLOCK_L)
        label = tl.load(labels + row * num + which, mask=which < num, other=-1)
        known = (label >= 0) & (label < vocab)
        x = tl.load(logits + label, mask=known, other=-float("inf")).to(tl.float32)
        tl.store(out + row * num + which, x - lse, mask=which < num)
