"""The machine a figure was measured on, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from workbench.cells import pages
from workbench_kernels import native

PACKAGES = ("workbench", "torch", "transformers", "tokenizers", "numpy", "triton")
BUFFER_BYTES = 1 << 30  # far beyond any cache
READINGS = 10  # of which the best counts
SPELL = 3  # sums in a row; a process that has just been idle is slow for the first
AT_ONCE = 20  # sums that a GPU is given before anyone waits, so that starting them costs nothing


def describe(threads: int, device: str = "cpu") -> dict[str, Any]:
    """CPU, cores, threads used, memory in bytes, system; of a GPU its name and memory.

    A virtual machine may hide which of its maker's processors it runs on behind one name, and those
    differ by a factor of two: ``cpu_family`` and ``cpu_model``, x86's numbers for it, tell.
    """
    gpu = {}
    if device != "cpu":
        gpu = {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        }
    return gpu | {
        "cpu": cpu_name(),
        **cpu_numbers(),
        "logical_cpus": os.cpu_count(),
        "threads": threads,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_1_min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that decide speed; None for one not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def source() -> dict[str, Any] | None:
    """The commit that is measured and whether its files were changed since; None outside a checkout
    of this project."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # ours, and not one around it
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_name() -> str:
    """The CPU's name as the system states it."""
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        return found[1].strip()
    return platform.processor() or platform.machine()


def cpu_numbers() -> dict[str, int]:
    """``cpu_family`` and ``cpu_model``, where the system states them."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = {
        name: re.search(rf"^{words}\s*:\s*(\d+)$", text, re.MULTILINE)
        for name, words in (("cpu_family", "cpu family"), ("cpu_model", "model"))
    }
    return {name: int(match[1]) for name, match in found.items() if match}


def called(machine: Mapping[str, Any]) -> str:
    """What a machine that `describe` described is called in a report."""
    if "gpu" in machine:
        return str(machine["gpu"])
    numbers = ""
    if "cpu_family" in machine and "cpu_model" in machine:
        numbers = f" (family {machine['cpu_family']}, model {machine['cpu_model']})"
    return f"{machine['threads']} threads of {machine['cpu']}{numbers}"


def short_name(name: str) -> str:
    """A CPU's name as part of a file name: ``AMD EPYC 9654 (TM) @ 2.4GHz`` -> ``amd-epyc-9654``."""
    name = re.sub(r"\((r|tm)\)|@.*|\b(cpu|processor|\d+-core)\b", " ", name.lower())
    return "-".join(re.findall(r"[a-z0-9]+", name)) or "cpu"


def processor_name(device: str = "cpu") -> str:
    """The name of what computes on a device."""
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name(device)


def peak_flops(dtype: torch.dtype, device: str = "cpu") -> tuple[float, str]:
    """Floating-point operations per second of large products at best, and of what that is.

    Args:
        dtype: of what is multiplied.
        device: what computes; a CPU with as many threads as torch is told to use.
    """
    if device == "cpu" and dtype == torch.bfloat16 and native.available():
        return native.peak_flops(), "products of bfloat16 in registers alone"
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device).to(dtype)  # ones need less power
    taken = []
    for _ in range(READINGS):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # which waits for it
        taken.append(time.perf_counter() - began)
    return 2 * size**3 / min(taken), f"torch's product of {size:,} x {size:,} matrices"


def read_bandwidth(
    repeats: int = 7, num_bytes: int = BUFFER_BYTES, device: str = "cpu"
) -> float:
    """Bytes per second that torch reads: the sum of a large float32 buffer, median.

    The buffer lies in large pages where there are any, as weights, keys and values do.

    Args:
        repeats: how many times the buffer is summed, after some that are not counted.
        num_bytes: size of the buffer; the default is far larger than any cache.
        device: whose memory.
    """
    buffer = pages.empty([num_bytes // 4], torch.float32, device).fill_(1)
    for _ in range(SPELL):
        float(buffer.sum())
    taken = []
    sums = 1 if device == "cpu" else AT_ONCE
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(sums - 1):
            buffer.sum()
        float(buffer.sum())  # which waits for it
        taken.append((time.perf_counter() - began) / sums)
    return buffer.nbytes / statistics.median(taken)
