"""What every benchmark's JSON begins with, where it goes, and tables for people."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.bench import machine
from workbench.errors import WorkbenchError

RESULTS = Path("data/bench")


def header(benchmark: str, command: str, device: str = "cpu") -> dict[str, Any]:
    """Name, command, time, versions and machine."""
    return {
        "benchmark": benchmark,
        "command": command,
        "began": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": machine.versions(),
        "source": machine.source(),
        "machine": machine.describe(torch.get_num_threads(), device),
    }


def check_out(path: Path) -> None:
    """Raise `WorkbenchError` if a result could not be written there, before anything is measured.

    The folder that it goes to is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writable = path if path.exists() else path.parent
    if not os.access(writable, os.W_OK):
        msg = f"--out {path}: {writable} may not be written to; say another place"
        raise WorkbenchError(msg)
    if path.is_dir():
        msg = f"--out {path}: expected a file, got a folder; say {path / 'a.json'}"
        raise WorkbenchError(msg)


def write(result: dict[str, Any], name: str, out: Path | None, device: str = "cpu") -> Path:
    """Write a result where it was asked for, or under ``data/bench`` by name and processor."""
    path = out or RESULTS / f"{name}-{machine.short_name(machine.processor_name(device))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first one to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [heads, *rows]) for i in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
