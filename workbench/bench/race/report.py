"""From samples to percentiles, slopes, floors and ratios, and to tables."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from workbench.bench.race.plan import CHOICE, OURS, main_answer
from workbench.bench.result import table as columns
from workbench.engine.floor import Floor

MOST_DRIFT = 0.15  # of the bandwidth within one peer's turn, on an idle machine
FLASH_HIT = "flash hit"

Kind = tuple[int, str]  # bars between questions, answer


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The result with bandwidth, cells, slopes and ratios worked out from its samples."""
    measured = [peer["bandwidth"][when] for peer in result["peers"] for when in ("before", "after")]
    bandwidth = statistics.median(measured)
    floor = Floor(**result["floor"])
    question = result["settings"]["question_tokens"]
    groups: dict[tuple[str, int, int, str], list[dict[str, Any]]] = defaultdict(list)
    for peer in result["peers"]:
        for sample in peer["samples"]:
            key = (sample["system"], sample["context"], sample["between"], sample["answer"])
            groups[key].append(sample)
    cells = [_cell(key, samples, floor, question, bandwidth) for key, samples in groups.items()]
    return result | {
        "bandwidth": {
            "of": "a fresh buffer of float32, summed by torch between the peers",
            "bytes_per_s": bandwidth,
            "lowest": min(measured),
            "highest": max(measured),
            "drifted": [p["peer"] for p in result["peers"] if abs(_drift(p)) > MOST_DRIFT],
        },
        "cells": cells,
        "slopes": _slopes(cells),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, p90, p99 and least."""
    p50, p90, p99 = (float(np.percentile(values, p)) for p in (50, 90, 99))
    return {"p50": p50, "p90": p90, "p99": p99, "min": min(values)}


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of the straight line through points by least squares; None for fewer than two contexts."""
    xs = [x for x, _ in points]
    if len(set(xs)) < 2:
        return None
    return statistics.linear_regression(xs, [y for _, y in points]).slope


def _cell(
    key: tuple[str, int, int, str],
    samples: Sequence[Mapping[str, Any]],
    floor: Floor,
    question: int,
    bandwidth: float,
) -> dict[str, Any]:
    """One system, context, number of bars and answer."""
    system, context, between, answer = key
    position = int(statistics.median(sample["position"] for sample in samples))
    total = percentiles([sample["total_ms"] for sample in samples])
    arrivals = statistics.median(sample["arrivals_ms"] for sample in samples)
    work = statistics.median(sample["arrivals_ms"] + sample["total_ms"] for sample in samples)
    cell: dict[str, Any] = {
        "system": system, "context": context, "position": position, "between": between,
        "answer": answer, "samples": len(samples),
        "total_ms": total,
        "ttft_ms": percentiles([sample["ttft_ms"] for sample in samples]),
        "arrival_ms": arrivals / between,  # one bar's
        "work_ms_per_bar": work / between,  # with the question's own
    }  # fmt: skip
    if FLASH_HIT not in system:
        forwards = 1 if answer == CHOICE else int(answer)
        cell["floor_ms"] = floor.ms(position, question, forwards, bandwidth)
        cell["over_floor"] = total["p50"] / cell["floor_ms"]
    return cell


def _slopes(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Milliseconds per 1,000 tokens of context: measured, and of the floor."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["system"], cell["between"], cell["answer"]].append(cell)
    found = []
    for (system, between, answer), group in groups.items():
        measured = slope([(cell["position"], cell["total_ms"]["p50"]) for cell in group])
        least = slope([(cell["position"], cell.get("floor_ms", 0.0)) for cell in group])
        if measured is not None and least is not None:
            found.append({
                "system": system, "between": between, "answer": answer,
                "ms_per_1000_tokens": 1e3 * measured, "floor_ms_per_1000_tokens": 1e3 * least,
            })  # fmt: skip
    return found


def write(result: dict[str, Any], out: Path) -> None:
    """JSON at ``out``, and every sample as a row of a parquet file beside it.

    The samples are in the parquet file alone.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = [
        sample | {"peer": peer["peer"]} for peer in result["peers"] for sample in peer["samples"]
    ]
    if samples:
        pl.DataFrame(samples).write_parquet(out.with_suffix(".parquet"))
    slim = [{k: v for k, v in peer.items() if k != "samples"} for peer in result["peers"]]
    out.write_text(json.dumps(result | {"peers": slim}, indent=1) + "\n")


def table(result: Mapping[str, Any]) -> str:
    """For people: who raced and who did not, then a block of medians per kind of question."""
    model, bandwidth = result["model"], result["bandwidth"]
    lines = [
        f"{model['name']}, {model['parameters'] / 1e6:,.1f} M parameters, {model['dtype']}, "
        f"{result['machine']['threads']} threads of {result['machine']['cpu']}",
        f"bandwidth {bandwidth['bytes_per_s'] / 1e9:.1f} GB/s, seen between "
        f"{bandwidth['lowest'] / 1e9:.1f} and {bandwidth['highest'] / 1e9:.1f}",
    ]
    if bandwidth["drifted"]:
        lines.append(
            f"it drifted by more than {MOST_DRIFT:.0%} in the turn of "
            f"{', '.join(bandwidth['drifted'])}: do not rely on those times"
        )
    lines += ["", *_peers(result)]
    kinds: list[Kind] = sorted(
        {(cell["between"], cell["answer"]) for cell in result["cells"]}, key=_order
    )
    for kind in kinds:
        lines += ["", *_block(result, kind)]
    lines += ["", *_arrivals(result), "", *_spread(result)]
    lines.append(f"a blank: not asked, or not reached in {result['settings']['budget_s']:g} s")
    return "\n".join(lines)


def _peers(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for peer in result["peers"]:
        checks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for equality in peer["equality"]:
            checks[equality["system"]].append(equality)
        for system in peer["systems"]:
            rows.append([system, _types(peer), *_agreement(checks[system]), _note(peer)])
    heads = ["system", "weights, cache", "differs by", "other tokens", ""]
    return [columns(heads, rows)]


def _types(peer: Mapping[str, Any]) -> str:
    opened = peer.get("opened", {})
    return f"{opened['weights']}, {opened['cache']}" if "weights" in opened else ""


def _agreement(checks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    differences = [c["max_difference"] for c in checks if c["max_difference"] is not None]
    off = f"{max(differences):.3f}" if differences else ""
    if not all(check["agrees"] for check in checks):
        off += " WRONG, not measured"
    margins = [item["margin"] for check in checks for item in check["disagreements"]]
    others = f"{len(margins)}, by up to {max(margins):.3f}" if margins else ""
    return off, others


def _note(peer: Mapping[str, Any]) -> str:
    return f"did not finish: {peer['failed']}" if peer["failed"] else ""


def _block(result: Mapping[str, Any], kind: Kind) -> list[str]:
    """Medians of one kind of question: a line per system, a column per context."""
    contexts = result["settings"]["contexts"]
    at = {
        (cell["system"], cell["context"]): cell
        for cell in result["cells"]
        if (cell["between"], cell["answer"]) == kind
    }
    slopes = {
        item["system"]: item
        for item in result["slopes"]
        if (item["between"], item["answer"]) == kind
    }
    rows = []
    for system in dict.fromkeys(name for name, _ in at):
        row = [system]
        for context in contexts:
            cell = at.get((system, context))
            row += ["", ""] if cell is None else [_ms(cell["total_ms"]["p50"]), _times(cell)]
        found = slopes.get(system)
        row.append("" if found is None else f"{found['ms_per_1000_tokens']:.2f}")
        rows.append(row)
    least = [at[key]["floor_ms"] if key in at else None for key in ((OURS, c) for c in contexts)]
    if any(least):
        row = ["floor"]
        for value in least:
            row += ["" if value is None else _ms(value), ""]
        found = slopes.get(OURS)
        rows.append([*row, f"{found['floor_ms_per_1000_tokens']:.2f}" if found else ""])
    heads = ["", *(head for c in contexts for head in (f"{c:,}", "x floor")), "ms/1,000"]
    return [f"{_title(kind)}; median ms to the last token", columns(heads, rows)]


def _arrivals(result: Mapping[str, Any]) -> list[str]:
    """What a bar costs when it arrives, and with its share of the questions, after one bar."""
    found = {
        key: [_ms(cell["arrival_ms"]), _ms(cell["work_ms_per_bar"])]
        for key, cell in _main_cells(result).items()
    }
    title = "median ms of compute per bar that arrives, and with the question that follows it"
    return [title, _by_context(result, found, ["", "+ asked"])]


def _spread(result: Mapping[str, Any]) -> list[str]:
    """Time to the first token, and how far it and the time to the last spread, after one bar."""
    found = {
        key: [
            *(_ms(cell["ttft_ms"][p]) for p in ("p50", "p90", "p99")),
            *(_ms(cell["total_ms"][p]) for p in ("p90", "p99")),
        ]
        for key, cell in _main_cells(result).items()
    }
    title = f"ms to the first token and to the last, {_title(_main_kind(result))}; percentiles"
    return [title, _by_context(result, found, ["first 50", "90", "99", "last 90", "99"])]


def _main_kind(result: Mapping[str, Any]) -> Kind:
    settings = result["settings"]
    return settings["between"][0], main_answer(settings["answers"])


def _main_cells(result: Mapping[str, Any]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """By system and context, what everyone is asked."""
    kind = _main_kind(result)
    return {
        (cell["system"], cell["context"]): cell
        for cell in result["cells"]
        if (cell["between"], cell["answer"]) == kind
    }


def _by_context(
    result: Mapping[str, Any], found: Mapping[tuple[str, int], list[str]], heads: Sequence[str]
) -> str:
    """A line per system, and for each context the same columns."""
    contexts = result["settings"]["contexts"]
    blank = [""] * len(heads)
    rows = [
        [system, *(text for c in contexts for text in found.get((system, c), blank))]
        for system in dict.fromkeys(name for name, _ in found)
    ]
    titles = [f"{c:,} {head}".strip() for c in contexts for head in heads]
    return columns(["", *titles], rows)


def _title(kind: Kind) -> str:
    between, answer = kind
    bars = "a bar" if between == 1 else f"{between} bars"
    if answer == CHOICE:
        return f"a choice of two after {bars}"
    return f"{answer} token{'' if answer == '1' else 's'} after {bars}"


def _order(kind: Kind) -> tuple[int, bool, int]:
    between, answer = kind
    return between, answer == CHOICE, 0 if answer == CHOICE else int(answer)


def _times(cell: Mapping[str, Any]) -> str:
    return f"{cell['over_floor']:.2f}" if "over_floor" in cell else ""


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _drift(peer: Mapping[str, Any]) -> float:
    return float(peer["bandwidth"]["after"] / peer["bandwidth"]["before"] - 1)
