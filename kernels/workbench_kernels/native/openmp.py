"""Torch's own threads: they wait in a loop for more work, on the cores that ours need.

All of this does nothing where torch has another OpenMP than the one it usually brings along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

SOFT = 1  # omp_pause_soft: what threads keep for themselves may be kept


def dismiss() -> None:
    """End the OpenMP threads that wait for the calling thread's next parallel operation.

    They are made again when it comes. Waiting, they would spin for milliseconds.
    """
    if (library := _library()) is not None:
        library.omp_pause_resource_all(SOFT)


@contextmanager
def alone() -> Iterator[None]:
    """Torch's own loops in this block run on the calling thread alone and make no others.

    What it hands to MKL (cosines, say) does not ask.
    """
    if (library := _library()) is None:
        yield
        return
    torch.get_num_threads()  # a new thread asks OpenMP for as many as torch was told only now
    threads = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(threads)


@cache
def _library() -> ctypes.CDLL | None:
    """The OpenMP that torch brings along."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            for name in ("omp_pause_resource_all", "omp_get_max_threads", "omp_set_num_threads"):
                getattr(library, name)
        except (OSError, AttributeError):
            continue
        return library
    return None
