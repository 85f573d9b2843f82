"""Seconds on a GPU: graphs of many calls on inputs too large for its cache, replayed and timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from workbench_kernels import testing, tuning
from workbench_kernels.gpu.attention import attend
from workbench_kernels.tiles import SliceRows, plan_tiles

DEVICE = torch.device("cuda")
REPEATS = 20


class Layers:
    """The same slices on several layers' pools, more bytes of K and V than caches hold.

    Args:
        slices: query rows and their cells.
        heads, kv_heads, dim: of every layer; bfloat16.
        least_bytes: what the layers hold together at least.
    """

    def __init__(
        self,
        slices: Sequence[SliceRows],
        *,
        heads: int = 32,
        kv_heads: int = 8,
        dim: int = 128,
        least_bytes: int = 600_000_000,
    ) -> None:
        self.slices = list(slices)
        self.scale = dim**-0.5
        runs = {run for item in self.slices for run in item.runs}
        cells = torch.zeros(max(run.start + run.length for run in runs), dtype=torch.bool)
        for run in runs:
            cells[run.start : run.start + run.length] = True
        self.bytes_read = int(cells.sum()) * kv_heads * 2 * dim * 2  # K and V, two bytes each
        num = min(64, max(2, -(-least_bytes // self.bytes_read)))
        self.inputs = [
            testing.inputs(self.slices, heads=heads, kv_heads=kv_heads, k_dim=dim,
                           dtype=torch.bfloat16, device=DEVICE, seed=seed)
            for seed in range(num)
        ]  # fmt: skip

    def attend(self, sizes: tuning.Sizes | None = None) -> list[Tensor]:
        """Every layer's attention on one plan, as a step runs it."""
        return [call() for call in self._calls(sizes)]

    def seconds(self, sizes: tuning.Sizes | None = None) -> float:
        """Seconds of one layer's attention; the index is made once, outside."""
        return seconds(self._calls(sizes))

    def _calls(self, sizes: tuning.Sizes | None) -> list[Callable[[], Tensor]]:
        plan = plan_tiles(self.slices)
        return [
            partial(attend, q, k, v, plan, scale=self.scale, sizes=sizes) for q, k, v in self.inputs
        ]


def seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Median seconds of one of the calls, which are captured as one graph and replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compile and warm up outside the capture
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]
    finally:
        torch.cuda.set_stream(usual)  # which a capture that failed does not do
    times = []
    for repeat in range(REPEATS + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end) / 1e3 / len(calls))
    del kept
    return statistics.median(times)


def product_flops() -> float:
    """Operations per second of a large product of bfloat16."""
    size = 8192
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds([lambda: a @ b] * 4)


def copy_bandwidth() -> float:
    """Bytes per second that a copy on the device reads and writes together."""
    source = torch.randn(2**28, device=DEVICE)  # 1 GiB
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds([lambda: target.copy_(source)] * 4)
