"""What an answer needs of the logits, which stay where they are: the best token, label scores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench_kernels.gpu import checks
from workbench_kernels.scores import Scores

BLOCK = 4096  # entries of the vocabulary that one program reads


def score(logits: Tensor, labels: Tensor | None = None) -> Scores:
    """Argmax, log-sum-exp, and the labels' log-probabilities of each row.

    A row is read in blocks by as many programs, since one alone would take longer than a layer of
    a small model; another puts their three numbers each together, always in the same order.

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
        block = min(BLOCK, triton.next_power_of_2(vocab))
        blocks = triton.cdiv(vocab, block)
        tops, sums = torch.empty(2, rows, blocks, dtype=torch.float32, device=logits.device)
        bests = torch.empty(rows, blocks, dtype=torch.int32, device=logits.device)
        with torch.cuda.device_of(logits):
            scan_kernel[(rows, blocks)](
                logits, tops, sums, bests, vocab, logits.stride(0), blocks,
                BLOCK=block, num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
            score_kernel[(rows,)](
                logits, labels, tops, sums, bests, tokens, logprobs, out,
                vocab, logits.stride(0), num, blocks,
                BLOCKS=triton.next_power_of_2(blocks),
                BLOCK_L=triton.next_power_of_2(num) if num else 0,
                num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip
    return Scores(tokens, logprobs, out)


@triton.jit
def scan_kernel(
    logits, tops, sums, bests, vocab, logits_row, blocks, BLOCK: tl.constexpr,
):  # fmt: skip
    """Part of a row: program ``(row, block)``. Its largest, the first place of it, and the sum of
    exponentials above it."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * logits_row + at, mask=at < vocab, other=-float("inf"))
    x = x.to(tl.float32)
    top = tl.max(x, 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    part = row * blocks + block
    tl.store(tops + part, top)
    tl.store(sums + part, tl.sum(tl.exp(x - base), 0))
    tl.store(bests + part, block * BLOCK + tl.argmax(x, 0))


@triton.jit
def score_kernel(
    logits, labels, tops, sums, bests, tokens, logprobs, out, vocab, logits_row, num, blocks,
    BLOCKS: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """One row, of its blocks' numbers: program ``(row,)``."""
    row = tl.program_id(0).to(tl.int64)
    which = tl.arange(0, BLOCKS)
    there = which < blocks
    x = tl.load(tops + row * blocks + which, mask=there, other=-float("inf"))
    total = tl.load(sums + row * blocks + which, mask=there, other=0.0)
    best = tl.load(bests + row * blocks + which, mask=there, other=0)
    top = tl.max(x, 0)
    base = tl.where(top == -float("inf"), 0.0, top)
    lse = top + tl.log(tl.sum(total * tl.exp(x - base), 0))
    # The first of equals, within a block and between blocks.
    best = tl.sum(tl.where(which == tl.argmax(x, 0), best, 0), 0)
    tl.store(tokens + row, best.to(tl.int64))
    tl.store(logprobs + row, top - lse)
    if BLOCK_L > 0:
        at = tl.arange(0, BLOCK_L)
        label = tl.load(labels + row * num + at, mask=at < num, other=-1)
        known = (label >= 0) & (label < vocab)
        logit = tl.load(logits + row * logits_row + label, mask=known, other=-float("inf"))
        tl.store(out + row * num + at, logit.to(tl.float32) - lse, mask=at < num)
