"""A race's files as frames: what plots of it are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from workbench.bench.race.equality import agreed
from workbench.bench.race.plan import OURS

CELLS = {
    "system": pl.String, "context": pl.Int64, "between": pl.Int64, "answer": pl.String,
    "samples": pl.Int64, "first_ms": pl.Float64, "ms": pl.Float64, "p90_ms": pl.Float64,
    "p99_ms": pl.Float64, "arrival_ms": pl.Float64, "floor_ms": pl.Float64,
    "times_ours": pl.Float64,
}  # fmt: skip
STANDING = {
    "system": pl.String, "context": pl.Int64, "answer": pl.String, "questions": pl.Int64,
    "samples": pl.Int64, "ms": pl.Float64, "over_fewest": pl.Float64, "times_ours": pl.Float64,
}  # fmt: skip
MIX = {
    "system": pl.String, "sessions": pl.Int64, "questions": pl.Int64, "unanswered": pl.Int64,
    "bars": pl.Int64, "unread": pl.Int64, "first_p50_ms": pl.Float64, "last_p50_ms": pl.Float64,
    "last_p90_ms": pl.Float64, "visible_p50_ms": pl.Float64, "visible_p90_ms": pl.Float64,
    "processors": pl.Float64,
}  # fmt: skip
PEERS = {
    "system": pl.String, "version": pl.String, "weights": pl.String, "cache": pl.String,
    "differs_by": pl.Float64, "agrees": pl.Boolean, "gb_per_s_before": pl.Float64,
    "gb_per_s_after": pl.Float64, "mix_gb_per_s_before": pl.Float64,
    "mix_gb_per_s_after": pl.Float64, "failed": pl.String, "mix_failed": pl.String,
}  # fmt: skip


def cells_frame(result: Mapping[str, Any]) -> pl.DataFrame:
    """A row for each system, context, number of bars between questions and kind of answer.

    Args:
        result: the JSON that ``python -m workbench.bench race`` wrote.

    Returns:
        Medians over ``samples`` questions in ms: ``first_ms`` to the first token, ``ms`` to the
        last, ``arrival_ms`` of one bar when it arrived; percentiles of ``ms``; ``floor_ms``, null
        for flash hits; ``times_ours``, over our session's ``ms`` for the same.
    """
    ours = {
        (cell["context"], cell["between"], cell["answer"]): cell["total_ms"]["p50"]
        for cell in result["cells"]
        if cell["system"] == OURS
    }
    rows = []
    for cell in result["cells"]:
        key = (cell["context"], cell["between"], cell["answer"])
        total = cell["total_ms"]
        rows.append({
            "system": cell["system"], "context": cell["context"], "between": cell["between"],
            "answer": cell["answer"], "samples": cell["samples"],
            "first_ms": cell["ttft_ms"]["p50"], "ms": total["p50"], "p90_ms": total["p90"],
            "p99_ms": total["p99"], "arrival_ms": cell["arrival_ms"],
            "floor_ms": cell.get("floor_ms"),
            "times_ours": total["p50"] / ours[key] if key in ours else None,
        })  # fmt: skip
    return pl.DataFrame(rows, schema=CELLS)


def standing_frame(result: Mapping[str, Any]) -> pl.DataFrame:
    """A row for each system, context, kind of answer and number of standing questions.

    ``ms``: median from a bar's arrival until the last of the questions is answered again;
    ``over_fewest``: over the same system's with the fewest questions.
    """
    rows = [
        {
            "system": cell["system"], "context": cell["context"], "answer": cell["answer"],
            "questions": cell["questions"], "samples": cell["samples"],
            "ms": cell["total_ms"]["p50"], "over_fewest": cell["over_fewest"],
            "times_ours": cell["times_ours"],
        }
        for cell in result["standing_cells"]
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=STANDING)


def mix_frame(result: Mapping[str, Any]) -> pl.DataFrame:
    """A row for each system and number of sessions; ms count from when something was due.

    ``visible_*_ms``: until a bar could be asked about; null where bars wait for a question.
    """
    rows = []
    for cell in result["mix_cells"]:
        visible = cell["visible_ms"] or {"p50": None, "p90": None}
        rows.append({
            "system": cell["system"], "sessions": cell["sessions"],
            "questions": cell["questions"], "unanswered": cell["unfinished_questions"],
            "bars": cell["bars"], "unread": cell["unfinished_bars"],
            "first_p50_ms": cell["first_ms"]["p50"], "last_p50_ms": cell["last_ms"]["p50"],
            "last_p90_ms": cell["last_ms"]["p90"], "visible_p50_ms": visible["p50"],
            "visible_p90_ms": visible["p90"], "processors": cell["processors"],
        })  # fmt: skip
    return pl.DataFrame(rows, schema=MIX)


def peers_frame(result: Mapping[str, Any]) -> pl.DataFrame:
    """A row for each system: what it ran with, how far its answers are from float32's, why not."""
    rows = []
    for peer in result["peers"]:
        opened, bandwidth, mix = peer.get("opened", {}), peer["bandwidth"], peer.get("mix") or {}
        mixed = mix.get("bandwidth", {})
        checks = [
            check
            for part in (peer, peer.get("standing"), peer.get("mix"))
            for check in (part["equality"] if part else ())
        ]
        for system in peer["systems"]:
            own = [check for check in checks if check["system"] == system]
            differences = [c["max_difference"] for c in own if c["max_difference"] is not None]
            versions = {k: v for k, v in opened.get("versions", {}).items() if k != "python"}
            rows.append({
                "system": system,
                "version": " ".join(f"{k} {v}" for k, v in list(versions.items())[:1]) or None,
                "weights": opened.get("weights"), "cache": opened.get("cache"),
                "differs_by": max(differences, default=None),
                "agrees": agreed(own) if own else None,
                "gb_per_s_before": bandwidth["before"] / 1e9,
                "gb_per_s_after": bandwidth["after"] / 1e9,
                "mix_gb_per_s_before": mixed["before"] / 1e9 if mixed else None,
                "mix_gb_per_s_after": mixed["after"] / 1e9 if mixed else None,
                "failed": peer["failed"] or None,
                "mix_failed": mix.get("failed") or mix.get("not_counted", {}).get(system),
            })  # fmt: skip
    return pl.DataFrame(rows, schema=PEERS)
