"""Exact combination of partial attentions by their log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Combine two attentions of the same queries over disjoint keys.

    Args:
        out_a, out_b: normalised outputs, float, ``[..., dim]``.
        lse_a, lse_b: natural-log sum of exponentials of the scores, float, ``[...]``; ``-inf``
            where a query saw no key, in which case its output is ignored.

    Returns:
        Output and log-sum-exp over the union of the keys, as one softmax would give them.
    """
    top = torch.maximum(lse_a, lse_b)
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    weight_a, weight_b = torch.exp(lse_a - top), torch.exp(lse_b - top)
    total = weight_a + weight_b
    scale = torch.where(total == 0, torch.zeros_like(total), 1 / total)
    out = out_a * (weight_a * scale).unsqueeze(-1) + out_b * (weight_b * scale).unsqueeze(-1)
    return out, top + torch.log(total)
