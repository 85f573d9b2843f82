"""The bytes behind the cells: one K and one V tensor per attention layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.cells import pages


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer keeps per token, and how it attends."""

    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int
    window: int | None  # sliding window in positions; None: full attention

    def bytes_per_cell(self, dtype: torch.dtype) -> int:
        """Bytes of K and V for one token in this layer."""
        return self.kv_heads * (self.k_dim + self.v_dim) * dtype.itemsize


class CellTensors:
    """K and V of every cell, ``[kv_heads, cells, dim]`` per layer, so that a run is contiguous.

    Attributes:
        k, v: by layer.
        device: where they are.
    """

    def __init__(
        self, layers: dict[int, LayerShape], num_cells: int, dtype: torch.dtype, device: str
    ) -> None:
        self.device = device

        def empty(kv_heads: int, dim: int) -> Tensor:
            return pages.empty((kv_heads, num_cells, dim), dtype, device)

        self.k = {i: empty(shape.kv_heads, shape.k_dim) for i, shape in layers.items()}
        self.v = {i: empty(shape.kv_heads, shape.v_dim) for i, shape in layers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all cells in all layers."""
        return sum(tensor.nbytes for tensor in [*self.k.values(), *self.v.values()])

    def populate(self, start: int, end: int) -> None:
        """Have the system find memory for cells ``start .. end`` now, in every layer."""
        for i, k in self.k.items():
            for plane in (*k, *self.v[i]):
                pages.populate(plane[start:end])

    def copy(self, source: list[int], target: list[int]) -> None:
        """Write what some cells hold into others, in every layer."""
        taken, given = (torch.tensor(cells, device=self.device) for cells in (source, target))
        for tensor in [*self.k.values(), *self.v.values()]:
            tensor.index_copy_(1, given, tensor.index_select(1, taken))

    def zero(self) -> None:
        """Make every cell finite, for measurements that read cells nobody has written."""
        for tensor in [*self.k.values(), *self.v.values()]:
            tensor.zero_()

    def fill(self, cells: list[int], value: float) -> None:
        """Overwrite some cells in every layer; tests put NaN where nothing may be read."""
        index = torch.tensor(cells, dtype=torch.long)
        for tensor in [*self.k.values(), *self.v.values()]:
            tensor.index_fill_(1, index.to(tensor.device), value)
