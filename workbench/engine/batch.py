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
    """Tokens of one sequence to run at ``start``.

    Attributes:
        keep: the rows whose logits are wanted.
        labels: per kept row the tokens to score after it; empty where there are none.
    """

    sequence: Sequence
    start: int
    ids: Seq[int]
    keep: Seq[int] = ()
    labels: Seq[Seq[int]] = ()


@dataclass
class Step:
    """What one forward pass needs; the model's attention layers call ``attend`` on it.

    On a GPU everything is padded to few sizes, so that few captured graphs serve all short steps.

    Attributes:
        ids, positions: int64 ``[1, rows]``: the step's tokens, then padding.
        slots: int64 ``[tokens]``, the cell each token is written to; on a GPU ``[rows]``, padding
            is negative and writes nothing.
        keep: int64 ``[kept]``, the rows whose logits are wanted, part by part; on a GPU padded
            with row 0, at least once.
        labels: per wanted row the tokens to score after it.
        buffer: int64, all of the above but the labels, one after the other.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    keep: Tensor
    labels: Seq[Seq[int]]
    buffer: Tensor
    slices: list[kernels.SliceRows]
    cells: CellTensors
    _plans: dict[int | None, kernels.TilePlan] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Iterable[Part], cells: CellTensors, device: str) -> Step:
        """Lay the parts side by side; each sequence must have cells for its tokens."""
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        keep: list[int] = []
        labels: list[Seq[int]] = []
        slices = []
        for part in parts:
            first, num = len(ids), len(part.ids)
            end = part.start + num
            ids.extend(part.ids)
            positions.extend(range(part.start, end))
            slots.extend(part.sequence.slots(part.start, end))
            keep.extend(first + row for row in part.keep)
            labels.extend(part.labels or [()] * len(part.keep))
            slices.append(kernels.SliceRows(first, num, part.start, part.sequence.runs(end)))

        on_gpu = kernels.active(device) == "triton"
        rows = launched(len(ids)) if on_gpu else padded(len(ids))
        padding = [0] * (rows - len(ids))
        if on_gpu:
            slots += [-1] * len(padding)
            keep += [0] * (launched(max(1, len(keep))) - len(keep))
        values = [ids + padding, positions + padding, slots, keep]
        buffer = _staged([number for part in values for number in part], device)
        ids_, positions_, slots_, keep_ = buffer.split([len(part) for part in values])
        return cls(ids_[None], positions_[None], slots_, keep_, labels, buffer, slices, cells)

    def plan(self, window: int | None) -> kernels.TilePlan:
        """The step's tiles for layers of one window size."""
        if window not in self._plans:
            self._plans[window] = kernels.plan_tiles(self.slices, window=window)
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
            q: ``[rows, heads, dim]``.
            k, v: ``[rows, kv_heads, dim]``.
            scale, window, softcap, sinks: as the layer defines them.

        Returns:
            ``[rows, heads, dim]``; padding attends to nothing and is zero.
        """
        keys, values = self.cells.k[layer], self.cells.v[layer]
        tokens = len(self.slots)
        kernels.write_kv(keys, values, self.slots, k[:tokens], v[:tokens])
        out = kernels.attend(q[:tokens], keys, values, self.plan(window), scale=scale,
                             softcap=softcap, sinks=sinks)  # fmt: skip
        if tokens < len(q):
            out = torch.cat([out, out.new_zeros(len(q) - tokens, *out.shape[1:])])
        return out


def _staged(numbers: list[int], device: str) -> Tensor:
    """Numbers as int64 on a device: one copy, from pinned memory where that is another."""
    staged = torch.tensor(numbers, dtype=torch.long)
    return staged if device == "cpu" else staged.pin_memory().to(device, non_blocking=True)


def launched(rows: int) -> int:
    """Rows that a step of so many has on a GPU, where one of few has the weights to wait for."""
    return 1 << (rows - 1).bit_length() if rows <= 128 else padded(rows)


def padded(tokens: int) -> int:
    """Rows that a step of so many tokens has.

    A matrix product of a new size is compiled, and the libraries keep what they compiled for a
    thousand of them: with every size a step can have, memory grows for hours.
    """
    if tokens <= 4:
        return tokens
    multiple = 4 if tokens <= 64 else 16 if tokens <= 256 else 32
    return -(-tokens // multiple) * multiple
