"""All layers of a decoder in one call: no Python comes between them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench_kernels.native.attention import MAX_DIM, Units
from workbench_kernels.native.library import Batch, Cells, Layer, Shape, load
from workbench_kernels.native.linear import COLUMNS
from workbench_kernels.native.openmp import dismiss
from workbench_kernels.tiles import TilePlan

# Steps of so little take a thread alone one to three milliseconds: weights that stay in its cache,
# and products of so many numbers. A second thread would save less than half of that, and where it
# has gone to sleep takes longer to wake: up to 5 ms on a virtual machine that was idle.
SMALL_WEIGHTS = 8_000_000
SMALL_WORK = 128_000_000


@dataclass(frozen=True)
class LayerWeights:
    """One layer as Llama, Mistral and Qwen define it; all bfloat16, contiguous.

    Attributes:
        tensors: by name, see ``layers.h``: before, after ``[hidden]`` (norms); packed weights (see
            `linear`) q ``[heads * dim, hidden]``, k, v ``[kv_heads * dim, hidden]``, out ``[hidden,
            heads * dim]``, gate, up ``[inner, hidden]``, down ``[hidden, inner]``; biases or none;
            q_norm, k_norm ``[dim]`` or none.
        scale: factor on attention scores, positive.
        window: sliding window in positions; None: full attention.
    """

    tensors: Mapping[str, Tensor]
    scale: float
    window: int | None


class Layers:
    """Layers of one shape, ready to run.

    Raises:
        ValueError: sizes that the compiled kernel cannot take, or layers of different shapes.
    """

    def __init__(self, layers: Sequence[LayerWeights], dim: int, eps: float) -> None:
        shapes = {tuple((n, t.shape) for n, t in x.tensors.items()) for x in layers}
        tensors = [t for x in layers for t in x.tensors.values()]
        if len(shapes) != 1:
            msg = f"expected layers of one shape, got {len(shapes)}"
            raise ValueError(msg)
        first = layers[0].tensors
        hidden, keys = len(first["before"]), COLUMNS * len(first["k"])
        inner, queries = (2 * first[name].shape[1] for name in ("down", "out"))
        if dim > MAX_DIM or any(size % 32 for size in (dim, hidden, inner)):
            msg = f"expected sizes in multiples of 32, got {hidden}, {inner} and heads of {dim}"
            raise ValueError(msg)
        if any(x.scale <= 0 for x in layers):
            msg = f"expected positive scales, got {min(x.scale for x in layers)}"
            raise ValueError(msg)
        if any(t.dtype != torch.bfloat16 or not t.is_contiguous() for t in tensors):
            msg = "expected contiguous tensors of bfloat16"
            raise ValueError(msg)
        self._keep = tensors  # the addresses below are theirs
        self.heads, self.kv_heads, self.dim = queries // dim, keys // dim, dim
        self.windows = tuple(dict.fromkeys(x.window for x in layers))
        self._shape = Shape(len(layers), hidden, inner, self.heads, self.kv_heads, dim, eps)
        self._layers = (Layer * len(layers))(
            *(
                Layer(
                    *(x.tensors[n].data_ptr() if n in x.tensors else None for n in Layer.WEIGHTS),
                    self.windows.index(x.window), x.scale,
                )
                for x in layers
            )
        )  # fmt: skip

        self._weights = sum(t.numel() for x in layers for t in x.tensors.values())
        self._widths = (hidden, queries, keys, keys, queries, inner)
        self._room: list[Tensor] = []
        self._cells: tuple[Sequence[Tensor], object] = ((), None)

    def run(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        plans: Sequence[TilePlan],
    ) -> None:
        """Run rows through all layers; their K and V are written to the cells.

        Args:
            x: ``[rows, hidden]``, contiguous; changed in place.
            cos, sin: ``[rows, dim]``, contiguous.
            slots: int64 ``[rows]``, the cell of each row.
            keys, values: per layer ``[kv_heads, cells, dim]``.
            plans: of each of ``windows``.
        """
        library = load()[0]
        assert library is not None
        if self._cells[0] is not keys:
            planes = [
                Cells(k.data_ptr(), v.data_ptr(), k.stride(0))
                for k, v in zip(keys, values, strict=True)
            ]
            self._cells = (keys, (Cells * len(planes))(*planes))
        if not self._room or len(self._room[0]) < len(x):
            self._room = [torch.empty(len(x), n, dtype=x.dtype) for n in self._widths]
        units = [Units.of(plan) for plan in plans]
        most = max(units, key=lambda u: u.unit_rows)
        native_plans = (type(most.plan) * len(units))(*(u.plan for u in units))
        batch = Batch(
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), slots.data_ptr(),
            *(room.data_ptr() for room in self._room),
            most.partial(self.heads, self.dim).data_ptr(), len(x),
        )  # fmt: skip
        small = self._weights <= SMALL_WEIGHTS and self._weights * len(x) <= SMALL_WORK
        if not small:
            dismiss()
        library.wb_layers(
            ctypes.byref(self._shape), self._layers, self._cells[1], native_plans,
            ctypes.byref(batch), 1 if small else torch.get_num_threads(),
        )  # fmt: skip
