"""A race's files: JSON, and beside it every sample and event as a row of parquet files.

Where polars is not installed, the JSON has the rows too; both are read back alike.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError

SUFFIXES = ("", "-standing", "-mix")  # of the parquet files beside a JSON


def files(result: Mapping[str, Any], out: Path) -> dict[Path, list[dict[str, Any]]]:
    """The files of a result: the JSON at ``out``, and beside it the rows of each parquet file."""
    singles, standing, mix = [], [], []
    for peer in result["peers"]:
        named = {"peer": peer["peer"]}
        singles += [sample | named for sample in peer["samples"]]
        standing += [s | named for s in (peer.get("standing") or {"samples": []})["samples"]]
        for run in (peer.get("mix") or {"runs": []})["runs"]:
            of = named | {"system": run["system"], "sessions": run["sessions"]}
            mix += [of | event for event in run["events"]]
    found: dict[Path, list[dict[str, Any]]] = {out: []}
    for suffix, rows in zip(SUFFIXES, (singles, standing, mix), strict=True):
        if rows and _has_polars():
            found[out.with_name(f"{out.stem}{suffix}.parquet")] = rows
    return found


def write(result: dict[str, Any], out: Path) -> list[Path]:
    """Write `files`, and return which; those of an earlier race are gone with it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    written = files(result, out)
    for suffix in SUFFIXES:
        if (path := out.with_name(f"{out.stem}{suffix}.parquet")) not in written:
            path.unlink(missing_ok=True)
    for path, rows in written.items():
        if rows:
            _write_rows(rows, path)
    slim = [_slim(peer) if _has_polars() else peer for peer in result["peers"]]
    out.write_text(json.dumps(result | {"peers": slim}, indent=1) + "\n")
    return list(written)


def read(path: Path) -> dict[str, Any]:
    """A result as `write` left it, its samples and events in their places again.

    Raises:
        WorkbenchError: there is no such file, or it is of another benchmark.
    """
    if not path.exists() or (result := json.loads(path.read_text())).get("benchmark") != "race":
        msg = f"{path}: expected a file that a race wrote; race without --into first"
        raise WorkbenchError(msg)
    singles, standing, events = (
        _rows(path.with_name(f"{path.stem}{suffix}.parquet")) for suffix in SUFFIXES
    )
    for peer in result["peers"]:
        name = peer["peer"]
        peer.setdefault("samples", [row for row in singles if row["peer"] == name])
        if peer.get("standing"):
            own_rows = [row for row in standing if row["peer"] == name]
            peer["standing"].setdefault("samples", own_rows)
        for run in (peer.get("mix") or {"runs": []})["runs"]:
            own = (name, run["system"], run["sessions"])
            own_events = [e for e in events if (e["peer"], e["system"], e["sessions"]) == own]
            run.setdefault("events", own_events)
    return dict(result)


def _slim(peer: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the parquet files have."""
    slim = {key: value for key, value in peer.items() if key != "samples"}
    if peer.get("standing"):
        slim["standing"] = {k: v for k, v in peer["standing"].items() if k != "samples"}
    if peer.get("mix"):
        runs = [{k: v for k, v in run.items() if k != "events"} for run in peer["mix"]["runs"]]
        slim["mix"] = peer["mix"] | {"runs": runs}
    return slim


def _has_polars() -> bool:
    return importlib.util.find_spec("polars") is not None


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    import polars as pl

    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    import polars as pl

    return pl.read_parquet(path).to_dicts()
