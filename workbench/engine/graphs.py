"""Short steps on a GPU as CUDA graphs: one launch for a step instead of hundreds.

A graph runs the kernels it was captured with again, on the same addresses and the same grids. What
may differ between two steps is what lies in the tensors they read: token ids, positions, slots,
rows to keep, and the attention's index. Everything else is in a graph's key.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import workbench_kernels as kernels
from workbench.cells.tensors import CellTensors, LayerShape
from workbench.engine.batch import Step

MOST_ROWS = 128  # of a step that is captured; in longer ones the launches no longer matter
MOST_GRAPHS = 96  # that are kept; then all are given up

# While a stream of a device is captured, nothing may wait for the whole device or give its memory
# back, in any thread; nor may there be two captures.
CAPTURING = threading.Lock()


class Layout(NamedTuple):
    """Layers that read one index: of the same window, query heads per KV head, and larger dim."""

    window: int | None
    group: int
    dim: int


class Key(NamedTuple):
    """What a graph was captured with; steps that differ in any of it need another.

    Attributes:
        rows, kept: padded rows of the step, and of its logits.
        shapes: per layout the padded counts of its index: grids and sizes of tensors.
    """

    rows: int
    kept: int
    shapes: tuple[Any, ...]


@dataclass(frozen=True)
class Captured:
    """A graph, the step whose tensors it reads, and the logits it writes."""

    step: Step
    indexes: list[Any]
    logits: Tensor
    replay: Callable[[], None]

    def run(self, step: Step, indexes: list[Any]) -> Tensor:
        """Another step with the same key; the logits hold until the next one."""
        self.step.buffer.copy_(step.buffer)
        for mine, other in zip(self.indexes, indexes, strict=True):
            mine.refill(other)
        self.replay()
        return self.logits


class Graphs:
    """The graphs of one model.

    Attributes:
        reason: why nothing is captured any more; None while graphs are in use.
    """

    def __init__(
        self,
        forward: Callable[[Step], Tensor],
        layers: Mapping[int, LayerShape],
        dtype: torch.dtype,
    ) -> None:
        """Graphs of ``forward``, which returns logits ``[kept, vocab]`` on the device."""
        self.reason: str | None = None
        self._forward, self._dtype = forward, dtype
        self._layouts = list(dict.fromkeys(
            Layout(s.window, s.heads // s.kv_heads, max(s.k_dim, s.v_dim)) for s in layers.values()
        ))  # fmt: skip
        self._cells: CellTensors | None = None  # whose addresses the graphs have
        self._seen: set[Key] = set()
        self._graphs: dict[Key, Captured] = {}
        self._device = torch.device("cpu")
        self._stream: Any = None
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def fits(self, step: Step) -> bool:
        """Whether a step is short enough, and graphs are in use."""
        return self.reason is None and step.ids.shape[1] <= MOST_ROWS

    def forward(self, step: Step) -> Tensor:
        """Logits of a step, padded rows included; they hold until the next step.

        The first step of a key runs as it is, which compiles what it launches; the second is
        captured.
        """
        if step.cells is not self._cells:
            self._cells, self._device = step.cells, step.ids.device
            self._forget()
            self._seen.clear()
        indexes = self._indexes(step)
        key = Key(step.ids.shape[1], len(step.keep), tuple(index.shape for index in indexes))
        captured = self._graphs.get(key)
        if captured is None:
            if key not in self._seen:
                self._seen.add(key)
                return self._forward(step)
            captured = self._capture(step, indexes)
            if captured is None:
                return self._forward(step)
            if len(self._graphs) >= MOST_GRAPHS:
                self._forget()
            self._graphs[key] = captured
        return captured.run(step, indexes)

    def _forget(self) -> None:
        """Give all graphs up, never one of them: cuBLAS's workspace, which they share, may go with
        any. Their pool goes too: once its last graph is gone, torch takes no more into it."""
        self._graphs.clear()
        self._pool = None

    def _indexes(self, step: Step) -> list[Any]:
        return [
            kernels.index_of(
                step.plan(layout.window), group=layout.group, dim=layout.dim, dtype=self._dtype,
                device=step.ids.device, rows=step.ids.shape[1],
            )
            for layout in self._layouts
        ]  # fmt: skip

    def _capture(self, step: Step, indexes: list[Any]) -> Captured | None:
        """A graph of a step, which keeps its tensors; None where the model cannot be captured."""
        try:
            logits, replay = self._record(lambda: self._forward(step))
        except Exception as error:  # a model that waits for the device within its forward
            self.reason = f"the model cannot be captured in a CUDA graph: {error}"
            self._forget()
            warnings.warn(f"{self.reason}; its steps are launched one by one", stacklevel=2)
            return None
        return Captured(step, indexes, logits, replay)

    def _record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """What ``run`` launches, as a graph; one pool serves all, since they run in turn.

        On a stream of the model's own device: torch captures on that of the current one, where
        what another device launches is not seen.
        """
        with CAPTURING, torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ):
                    logits = run()
            finally:
                torch.cuda.set_stream(usual)  # which a capture that failed does not do
        return logits, graph.replay
