"""How much a processor computes at most, to compare with what a kernel does."""

from __future__ import annotations

import time

import torch

from workbench_kernels.native.library import load

TIMES = 500_000  # some ten milliseconds
READINGS = 9


def peak_flops() -> float:
    """Floating-point operations per second of torch's number of threads.

    Products of bfloat16 pairs summed in float32, of registers alone, as all products here are
    computed; the best of a few readings. A multiplication and an addition are two.
    """
    library = load()[0]
    assert library is not None
    threads = torch.get_num_threads()
    taken = []
    for _ in range(READINGS):
        began = time.perf_counter()
        flops = library.wb_peak(TIMES, threads)
        taken.append(time.perf_counter() - began)
    return float(flops) / min(taken)
