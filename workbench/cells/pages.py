"""CPU memory in large pages, for what every step reads from end to end: weights, keys and values.

With pages of 4 KiB the processor looks up an address, and begins to read ahead anew, every 4 KiB.
Most Linux systems give larger ones only to memory that asks for them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LARGE = 2 << 20  # bytes of a large page on x86 and most others
LINE = 64  # bytes of a cache line, where each tensor begins
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, of Linux 5.14 and newer


def empty(shape: Sequence[int], dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """As ``torch.empty``, in large pages where it is on a CPU that has them and big enough."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device != "cpu" or num_bytes < 2 * LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, num_bytes + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % LARGE
    return whole[start : start + num_bytes].view(dtype).view(tuple(shape))


def populate(tensor: Tensor) -> None:
    """Have the system find memory for a contiguous CPU tensor now; its contents stay.

    Memory that was asked for comes when it is first written, a page at a time, and for the large
    pages of a virtual machine each takes milliseconds. Does nothing where the system cannot.
    """
    if tensor.device.type != "cpu" or not tensor.nbytes:
        return
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    _madvise(start, tensor.data_ptr() + tensor.nbytes - start, POPULATE_WRITE)


def move(parameters: Iterable[nn.Parameter]) -> None:
    """Move CPU parameters into large pages; what was tied stays tied."""
    parameters = [p for p in parameters if p.device.type == "cpu"]
    by_storage = {(p.data_ptr(), p.dtype, p.shape): p for p in parameters if p.is_contiguous()}
    sizes = [-(-p.nbytes // LINE) * LINE for p in by_storage.values()]
    if sum(sizes) < 2 * LARGE:
        return
    arena = empty([sum(sizes)], torch.uint8)
    at, moved = 0, {}
    for (key, parameter), size in zip(by_storage.items(), sizes, strict=True):
        place = arena[at : at + parameter.nbytes].view(parameter.dtype).view(parameter.shape)
        moved[key] = place.copy_(parameter.detach())
        at += size
    for parameter in parameters:
        key = (parameter.data_ptr(), parameter.dtype, parameter.shape)
        if key in moved:
            parameter.data = moved[key]


def _madvise(start: int, length: int, advice: int) -> None:
    """``madvise(2)``, which Python has only for its own maps; other threads go on meanwhile."""
    if sys.platform == "linux":
        call = ctypes.CDLL(None).madvise
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        call(start, length, advice)  # what cannot be had now comes later, as without it
