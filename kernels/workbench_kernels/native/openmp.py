"""Torch's own threads: they wait in a loop for more work, on the cores that ours need."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

SOFT = 1  # omp_pause_soft: what threads keep for themselves may be kept


def dismiss() -> None:
    """End the OpenMP threads that wait for the calling thread's next parallel operation.

    They are made again when it comes. Waiting, they would spin for milliseconds. Does nothing where
    there are none, or where torch has another OpenMP.
    """
    if (pause := _pause()) is not None:
        pause(SOFT)


@cache
def _pause() -> Callable[[int], int] | None:
    """``omp_pause_resource_all`` of the OpenMP that torch brings along."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            function = ctypes.CDLL(str(path)).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
        pause: Callable[[int], int] = function
        return pause
    return None
