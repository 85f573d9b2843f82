"""Matrix products of a few rows at memory speed: what decoding spends most of its time on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench_kernels import native

MOST_ROWS = 64  # set when ours were slower; today they win to 128 (kernels/LOG.md)


def quicken(model: nn.Module) -> int:
    """Send a CPU model's bfloat16 products of few rows to the compiled kernel.

    Larger ones stay with torch. Returns how many layers were changed; 0 where the kernel is not
    available.
    """
    if not native.available():
        return 0
    layers = [m for m in model.modules() if type(m) is nn.Linear and _fits(m)]
    for layer in layers:
        layer.forward = _forward_of(layer)  # type: ignore[method-assign]
    return len(layers)


def _fits(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and weight.shape[1] % 32 == 0
    )


def _forward_of(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = layer.weight, layer.bias
    inner = weight.shape[1]

    def forward(x: Tensor) -> Tensor:
        if x.numel() <= MOST_ROWS * inner and x.dtype == torch.bfloat16:
            return native.linear(x, weight, bias)
        return functional.linear(x, weight, bias)

    return forward
