"""From samples to percentiles, slopes, floors and ratios; tables are in `tables`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.bench.race.peers.timetable import BAR, QUESTION
from workbench.bench.race.plan import CHOICE, OURS
from workbench.engine.floor import Floor

MOST_DRIFT = 0.15  # of the bandwidth within one peer's turn, on an idle machine
FLASH_HIT = "flash hit"


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The result with bandwidth, cells, slopes and ratios worked out from its samples."""
    turns = [turn for peer in result["peers"] for turn in _turns(peer)]
    readings = {tuple(_readings(turn["bandwidth"])) for turn in turns}  # those together share one
    measured = [reading for seen in readings for reading in seen]
    together = result["settings"].get("together", False)
    bandwidth = max(measured)  # nobody gets below a floor at this one
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
            "drifted": [
                peer["peer"]
                for peer in result["peers"]
                if (not together or peer.get("raced")) and _drifted(peer)
            ],
            "varied": max(measured) / min(measured) - 1,
        },
        "cells": cells,
        "slopes": _slopes(cells),
        "standing_cells": _standing(result["peers"]),
        "mix_cells": [
            _mixed(run)
            for peer in result["peers"]
            if peer.get("mix")
            for run in peer["mix"]["runs"]
        ],
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


def _standing(peers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A cell for each system, context, number of standing questions and kind of answer.

    ``over_one`` is its time over that of the fewest questions, ``times_ours`` over ours.
    """
    groups: dict[tuple[str, int, int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for peer in peers:
        for s in (peer.get("standing") or {"samples": []})["samples"]:
            groups[s["system"], s["context"], s["questions"], s["answer"]].append(s)
    totals = {
        key: statistics.median(sample["total_ms"] for sample in samples)
        for key, samples in groups.items()
    }
    found = []
    for key, samples in groups.items():
        system, context, questions, answer = key
        read = [sample["read_ms"] for sample in samples if sample["read_ms"] is not None]
        alike = [k for k in totals if (k[0], k[1], k[3]) == (system, context, answer)]
        fewest = min(alike, key=lambda k: k[2])
        ours = totals.get((OURS, context, questions, answer))
        found.append({
            "system": system, "context": context, "questions": questions, "answer": answer,
            "samples": len(samples),
            "total_ms": percentiles([sample["total_ms"] for sample in samples]),
            "read_ms": statistics.median(read) if read else None,
            "fewest": fewest[2],
            "over_fewest": totals[key] / totals[fewest],
            "times_ours": None if ours is None else totals[key] / ours,
        })  # fmt: skip
    return found


def _mixed(run: Mapping[str, Any]) -> dict[str, Any]:
    """One run of the mix; what was not finished counts with its age at the end."""
    asked = [event for event in run["events"] if event["kind"] == QUESTION]
    bars = [event for event in run["events"] if event["kind"] == BAR]
    seen = [event["last_ms"] for event in bars if event["last_ms"] is not None]
    return {
        "system": run["system"], "sessions": run["sessions"],
        "questions": len(asked), "bars": len(bars),
        "first_ms": percentiles([event["first_ms"] for event in asked]),
        "last_ms": percentiles([event["last_ms"] for event in asked]),
        "visible_ms": percentiles(seen) if seen else None,
        "unfinished_questions": sum(not event["finished"] for event in asked),
        "unfinished_bars": sum(not event["finished"] for event in bars),
        "processors": run["processors"],
    }  # fmt: skip


def _turns(peer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A peer's turns with the machine, each with the bandwidth before and after."""
    return [peer, *([peer["mix"]] if peer.get("mix") else [])]


def _readings(bandwidth: Mapping[str, Any]) -> list[float]:
    """All that were taken in a turn."""
    return list(bandwidth.get("seen", (bandwidth["before"], bandwidth["after"])))


def _drifted(peer: Mapping[str, Any]) -> bool:
    """Whether the machine's bandwidth changed by much within a turn."""
    readings = [_readings(turn["bandwidth"]) for turn in _turns(peer)]
    return any(max(seen) / min(seen) - 1 > MOST_DRIFT for seen in readings)
