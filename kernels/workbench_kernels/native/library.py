"""Loading the compiled CPU kernels, and the C structures they take."""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path

VERSION = 3  # of the functions' arguments, as `wb_version` in cpu.cpp; change both with them

Pointer, Integer, Long, Float = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float


class Plan(ctypes.Structure):
    """Which cells a step's rows read; see ``attention.h``."""

    _fields_ = (
        *((name, Pointer) for name in ("units", "row_ids", "positions", "parts_at", "parts")),
        *((name, Long) for name in ("num_units", "unit_rows", "window")),
    )


class Heads(ctypes.Structure):
    """One layer's cells and heads; see ``attention.h``."""

    _fields_ = (
        *((name, Pointer) for name in ("q", "k", "v", "out", "partial", "sinks")),
        ("plane", Long),
        *((name, Integer) for name in ("rows", "heads", "kv_heads", "dim")),
        ("scale", Float),
    )


class Shape(ctypes.Structure):
    """What all layers have in common; see ``layers.h``."""

    _fields_ = (
        *((name, Long) for name in ("num_layers", "hidden", "inner", "heads", "kv_heads", "dim")),
        ("eps", Float),
    )


class Layer(ctypes.Structure):
    """Weights of one layer; see ``layers.h``."""

    WEIGHTS = (
        "before", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "out",
        "out_bias", "after", "gate", "up", "down",
    )  # fmt: skip
    _fields_ = (*((name, Pointer) for name in WEIGHTS), ("plan", Long), ("scale", Float))


class Cells(ctypes.Structure):
    """One layer's cells; see ``layers.h``."""

    _fields_ = (("k", Pointer), ("v", Pointer), ("plane", Long))


class Batch(ctypes.Structure):
    """Rows of a step, and room to work in; see ``layers.h``."""

    _fields_ = (
        *((name, Pointer) for name in (
            "x", "cos", "sin", "slots", "normed", "q", "k", "v", "attended", "gated", "partial",
        )),
        ("rows", Long),
    )  # fmt: skip


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why not."""
    if os.environ.get("WORKBENCH_NATIVE") == "0":
        return None, "switched off by WORKBENCH_NATIVE=0"
    # This Python's own: an install by another one may have left a file that is older.
    path = Path(__file__).parent / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not path.exists():
        return None, "not built: the install found no C++ compiler for x86 with AVX512-BF16"
    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        return None, f"cannot be loaded: {error}"
    version = library.wb_version() if hasattr(library, "wb_version") else 0
    if version != VERSION:
        return None, f"built from other sources (version {version}, not {VERSION}): install again"
    if not library.wb_supported():
        return None, "the processor has no AVX512-BF16"
    takes = {
        "wb_attend": [Pointer, Pointer, Integer],
        "wb_pack": [Pointer, Long, Long, Pointer, Integer],
        "wb_linear": [*[Pointer] * 4, Long, Long, Long, Integer],
        "wb_layers": [*[Pointer] * 5, Integer],
        "wb_norm": [*[Pointer] * 3, Float, Long, Long, Pointer],
        "wb_peak": [Long, Integer],
        "wb_score": [Pointer, Long, Long, *[Pointer] * 3, Integer],
    }
    for name, arguments in takes.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.wb_peak.restype = Long
    return library, ""


def available() -> bool:
    """Whether the compiled kernels are in use."""
    return load()[0] is not None


def reason() -> str:
    """Why they are not; empty where they are."""
    return load()[1]
