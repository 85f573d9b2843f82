"""Systems side by side: percentiles of every quantity, and what each computed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.bench.sessions.neighbours import QUIET

QUANTITIES = {
    "ask_ms": "ask, ms",
    "ask_open_ms": "  an open answer",
    "ask_choices_ms": "  two choices",
    "ttft_ms": "  to the first token",
    "lag_ms": "ingest lag, ms",
    "flash_age": "flash age, visible ticks",
    "flash_age_arrived": "flash age, arrived ticks",
}
COLUMNS = ("p50", "p95", "p99", "max")  # blank where there are too few for one
KINDS = ("ingest", "question", "decode", "flash")


def describe(workload: Mapping[str, Any]) -> str:
    """The arrivals in a sentence."""
    burst = f", {workload['burst']} at a time" if workload["burst"] > 1 else ""
    together = ", all at the same moments" if workload["together"] else ""
    return (
        f"{workload['sessions']} sessions of {workload['context']:,} tokens for "
        f"{workload['seconds']:g} s; each ticks every {workload['tick']:g} s{burst}{together} "
        f"(about {workload['tokens_per_tick']} tokens); flash queries: {workload['flash']} each;\n"
        f"{workload['questions_per_second']:g} questions a second of "
        f"{workload['question_tokens']} tokens: "
        f"{workload['choices_share']:.0%} choose between two answers, the others are answered in "
        f"{workload['answer_tokens']} tokens"
    )


def table(workload: Mapping[str, Any], systems: Sequence[Mapping[str, Any]]) -> str:
    """A block per quantity, a line per system.

    Latencies count from when something was due; ages are weighted by how long they lasted.
    """
    width = max(len(system["system"]) for system in systems) + 2
    lines = [
        describe(workload),
        "",
        f"{'':<28}{'':<{width}}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}{'count':>9}",
    ]
    for quantity, title in QUANTITIES.items():
        shown = title
        for system in systems:
            times = system[quantity]
            if times["max"] is None:
                continue  # there was none
            shown_of = ("" if times[k] is None else _number(times[k]) for k in COLUMNS)
            values = "".join(f"{value:>10}" for value in shown_of)
            count = f"{times['count']:,}" if "count" in times else ""
            lines.append(f"{shown:<28}{system['system']:<{width}}{values}{count:>9}")
            shown = ""
    header = "".join(f"{kind:>10}" for kind in KINDS)
    lines += ["", f"{'tokens computed':<28}{'':<{width}}{header}{'steps':>10}{'busy':>8}"]
    for system in systems:
        tokens = "".join(f"{system['tokens'].get(kind, 0):>10,}" for kind in KINDS)
        busy = f"{system['utilisation']:.0%}"
        lines.append(f"{'':<28}{system['system']:<{width}}{tokens}{system['steps']:>10,}{busy:>8}")
    return "\n".join([*lines, *_remarks(systems)])


def _remarks(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know to judge the figures."""
    lines = []
    for system in systems:
        name = system["system"]
        if system["unfinished"]:
            lines.append(
                f"{name}: {system['unfinished']:,} had not ended {system['overrun_s']:.0f} s after "
                "the last arrival; they count with the time they had waited"
            )
        elif system["overrun_s"] > 1:
            lines.append(f"{name}: worked for {system['overrun_s']:.1f} s after the last arrival")
        if (others := system.get("others_cpu") or 0.0) > QUIET:
            lines.append(
                f"{name}: others used {others:.0%} of the processors meanwhile; do not rely on "
                "the times"
            )
        if system.get("sent_late_ms_p99") is not None:
            late = f"{name}: arrivals were sent within {system['sent_late_ms_p99']:.1f} ms (p99)"
            error = system.get("step_prediction_error_p50")
            if error is not None:
                late += f"; step times were predicted within {error:.0%} (median)"
            lines.append(late)
    return ["", *lines] if lines else []


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
