"""Where a model runs and in which type, from what a caller says of it and what the machine has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch

from workbench.errors import ModelError


def auto_device(device: str) -> str:
    """``auto``: the CPU. The GPU's path has been run in Triton's interpreter alone.

    Raises:
        ModelError: there is no such device, or it has no kernels.
    """
    if device in ("auto", "cpu"):
        return "cpu"
    if not re.fullmatch(r"cuda(:\d+)?", device):
        msg = f"device {device!r} has no kernels; expected 'auto', 'cpu', 'cuda' or 'cuda:0'"
        raise ModelError(msg)
    number, there = int(device[5:] or 0), torch.cuda.device_count()
    if number >= there:
        msg = f"device {device!r}: torch finds {there} CUDA devices here; expected 'auto' or 'cpu'"
        raise ModelError(msg)
    if importlib.util.find_spec("triton") is None:
        msg = f"device {device!r} needs triton>=3.6: pip install 'triton>=3.6', or use 'cpu'"
        raise ModelError(msg)
    return f"cuda:{number}"


def auto_dtype(dtype: str | torch.dtype, device: str = "cpu") -> torch.dtype:
    """``auto``: bfloat16 on a GPU and where the CPU multiplies it in hardware, else float32."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto" and device != "cpu":
        return torch.bfloat16
    if dtype == "auto":
        # In this order: torch is built without oneDNN where the first one is false, on a Mac say.
        has_bf16 = _native_bf16() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return torch.bfloat16 if has_bf16 else torch.float32
    names = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in names:
        msg = f"dtype {dtype!r} is unknown; expected 'auto', {', '.join(map(repr, names))}"
        raise ModelError(msg)
    return names[dtype]


def _native_bf16() -> bool:
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        flags = Path("/proc/cpuinfo")
        text = flags.read_text() if flags.exists() else ""
        return "avx512_bf16" in text or "amx_bf16" in text
    return False
