"""One step as tensors: token ids, positions, slots, tiles. Made once, read by every layer."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

import workbench_kernels as kernels
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors


@dataclass(frozen=True)
class Part:
    """Tokens of one sequence to run at ``start``; ``keep`` are the rows whose logits are wanted."""

    sequence: Sequence
    start: int
    ids: Seq[int]
    keep: Seq[int] = ()


@dataclass
class Step:
    """What one forward pass needs; the model's attention layers call ``attend`` on it.

    Attributes:
        ids, positions: int64 ``[1, tokens]``.
        slots: int64 ``[tokens]``, the cell each token is written to.
        keep: int64 ``[kept]``, the rows whose logits are wanted, part by part.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    keep: Tensor
    slices: list[kernels.SliceRows]
    cells: CellTensors
    split: int | None = None
    _plans: dict[int | None, kernels.TilePlan] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Iterable[Part], cells: CellTensors, device: str) -> Step:
        """Lay the parts side by side; each sequence must have cells for its tokens."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        keep: list[int] = []
        slices = []
        for part in parts:
            first, num = len(ids), len(part.ids)
            end = part.start + num
            ids.extend(part.ids)
            positions.extend(range(part.start, end))
            slots.extend(part.sequence.slots(part.start, end))
            keep.extend(first + row for row in part.keep)
            slices.append(kernels.SliceRows(first, num, part.start, part.sequence.runs(end)))

        def index(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return cls(
            index(ids)[None], index(positions)[None], index(slots), index(keep), slices, cells
        )

    def plan(self, window: int | None) -> kernels.TilePlan:
        """The step's tiles for layers of one window size."""
        if window not in self._plans:
            self._plans[window] = kernels.plan_tiles(self.slices, window=window, split=self.split)
        return self._plans[window]

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Write this step's K and V, then attend.

        Args:
            layer: index of the attention layer.
            q: ``[tokens, heads, dim]``.
            k, v: ``[tokens, kv_heads, dim]``.
            scale, window, softcap, sinks: as the layer defines them.

        Returns:
            ``[tokens, heads, dim]``.
        """
        keys, values = self.cells.k[layer], self.cells.v[layer]
        kernels.write_cells(keys, self.slots, k)
        kernels.write_cells(values, self.slots, v)
        plan = self.plan(window)
        return kernels.attend(q, keys, values, plan, scale=scale, softcap=softcap, sinks=sinks)
