"""From measurements to medians, floors and ratios, and to a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.bench.batching import Batching
from workbench.bench.contenders import (
    BAR,
    CHOICES,
    EIGHT,
    FLASH,
    FORWARDS,
    ONE,
    OURS,
    QUESTION_TOKENS,
    Measured,
)
from workbench.bench.machine import called
from workbench.bench.peers import Stateless, Warm, WarmCompiled, WarmStatic
from workbench.engine.roofline import Roofline

PEERS = (WarmCompiled.name, WarmStatic.name, Warm.name, Batching.name, Stateless.name)
MOST_DRIFT = 0.15  # between two readings of the bandwidth, on an idle machine


def summary(context: int, measured: Measured, roofline: Roofline) -> dict[str, Any]:
    """Medians, floors and ratios of one context; ``roofline_ms`` of what was asked."""
    floor, bandwidth = roofline.floor, roofline.bandwidth
    entries = []
    for (system, kind), samples in sorted(measured.items(), key=lambda item: _order(item[0][0])):
        position = int(statistics.median(samples.positions))
        entry: dict[str, Any] = {
            "system": system,
            "kind": kind,
            "samples": len(samples.total_ms),
            "position": position,
            "median_ms": statistics.median(samples.total_ms),
            "p90_ms": float(np.percentile(samples.total_ms, 90)),
            "min_ms": min(samples.total_ms),
            "ttft_ms": statistics.median(samples.ttft_ms),
            "all_ms": samples.total_ms,
            "positions": samples.positions,
        }
        if kind in FORWARDS:
            # A bar's own tokens are few; a question's are known exactly.
            own = 0 if kind == BAR else QUESTION_TOKENS
            entry["floor_ms"] = floor.ms(position, own, FORWARDS[kind], bandwidth)
            entry["over_floor"] = entry["median_ms"] / entry["floor_ms"]
            if kind != BAR:
                entry["roofline_ms"] = roofline.ms(position, own, FORWARDS[kind])
                entry["over_roofline"] = entry["median_ms"] / entry["roofline_ms"]
        entries.append(entry)
    median = {(e["system"], e["kind"]): e["median_ms"] for e in entries}
    ratios: dict[str, dict[str, float]] = {}
    for kind in (ONE, EIGHT, BAR):
        ours = next(e for e in entries if (e["system"], e["kind"]) == (OURS, kind))
        ratios[kind] = {"ours/floor": ours["over_floor"]}
        for name in PEERS:
            if (name, kind) in median:
                ratios[kind][f"ours/{name}"] = ours["median_ms"] / median[name, kind]
    return {"context": context, "bandwidth": bandwidth, "measured": entries, "ratios": ratios}


def table(result: dict[str, Any]) -> str:
    """The result as text: a block per context, a line per system and kind of question."""
    gb = result["bandwidth"]["best"] / 1e9
    model, peak = result["model"], result["arithmetic"]
    lines = [
        f"{model['name']}, {model['parameters'] / 1e6:,.1f} M parameters, {model['dtype']}, "
        + called(result["machine"]),
        f"floor: {result['floor']['weight_bytes'] / 1e6:,.0f} MB of weights and "
        f"{result['floor']['kv_bytes_per_token'] / 1e3:,.1f} kB per token of context, read at "
        f"{gb:.1f} GB/s, the best of the run (readings differ by "
        f"{result['bandwidth']['drift']:.1%})",
        "roofline: of each forward that, or its arithmetic at "
        f"{peak['flops_per_s'] / 1e9:,.0f} GFLOP/s ({peak['of']})",
    ]
    if result["bandwidth"]["drift"] > MOST_DRIFT:
        lines.append("the bandwidth drifted: the machine was not idle, so do not rely on the times")
    for block in result["contexts"]:
        read = ", ".join(
            f"{name} {block['reading']['tokens'] / seconds:,.0f} tokens/s"
            for name, seconds in block["reading"]["seconds"].items()
            if seconds
        )
        off = max(block["equality"]["max_difference"].values())
        lines += [
            "",
            f"context {block['context']:,} tokens; log-probabilities agree within {off:.2g} "
            f"(bound {block['equality']['bound']:.2g}, a missing bar would show as "
            f"{block['equality']['difference_if_the_last_bar_were_missing']:.2g})",
            f"  reading up to here: {read}",
            f"  {'':<12}{'':<42}{'median ms':>10}{'p90':>10}{'min':>10}{'TTFT':>10}{'x floor':>9}"
            f"{'x roofline':>12}",
        ]
        for kind in (ONE, EIGHT, CHOICES, FLASH, BAR):
            title = kind
            for entry in block["measured"]:
                if entry["kind"] == kind:
                    ttft = "" if kind == BAR else f"{entry['ttft_ms']:,.2f}"
                    floor, roofline = _times(entry, "floor"), _times(entry, "roofline")
                    lines.append(
                        f"  {title:<12}{entry['system']:<42}{entry['median_ms']:>10,.2f}"
                        f"{entry['p90_ms']:>10,.2f}{entry['min_ms']:>10,.2f}{ttft:>10}{floor:>9}"
                        f"{roofline:>12}"
                    )
                    title = ""
    lines += [f"{name} is not there: {why}" for name, why in result["unavailable"].items()]
    lines += ["", "our time as a share of theirs (below 1 is faster)"]
    for block in result["contexts"]:
        for kind, ratios in block["ratios"].items():
            shown = ", ".join(
                f"{name.removeprefix('ours/')} {value:.3f}"
                for name, value in ratios.items()
                if name != "ours/floor"
            )
            lines.append(f"  {block['context']:>7,} tokens  {kind:<12}{shown}")
    return "\n".join(lines)


def _times(entry: Mapping[str, Any], least: str) -> str:
    """A measurement over its ``least``, where it has one."""
    return f"{entry[f'over_{least}']:.2f}" if f"over_{least}" in entry else ""


def _order(system: str) -> int:
    return (OURS, *PEERS).index(system)
