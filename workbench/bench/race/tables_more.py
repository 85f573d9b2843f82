"""Tables of standing questions and of the mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.bench.race.plan import CHOICE
from workbench.bench.result import table as columns

PERCENTILES = ("p50", "p90", "p99")


def ms(value: float | None) -> str:
    """Milliseconds; None is a blank."""
    if value is None:
        return ""
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def standing(result: Mapping[str, Any]) -> list[str]:
    """For each context and kind of answer, a line per system and columns per number of them."""
    lines: list[str] = []
    cells: Sequence[Mapping[str, Any]] = result["standing_cells"]
    kinds = dict.fromkeys((cell["answer"], cell["context"]) for cell in cells)
    for answer, context in sorted(kinds, key=lambda kind: (kind[0] == CHOICE, kind[1])):
        group = [c for c in cells if (c["answer"], c["context"]) == (answer, context)]
        what = "choices of two" if answer == CHOICE else f"answers of {answer} tokens"
        lines += [
            "",
            f"standing questions, {what} over {context:,} tokens; median ms from a bar's arrival "
            "until the last answer, the bar alone, over the fewest, over ours",
            _standing_table(group),
        ]
    return lines


def _standing_table(cells: Sequence[Mapping[str, Any]]) -> str:
    at = {(cell["system"], cell["questions"]): cell for cell in cells}
    numbers = sorted({cell["questions"] for cell in cells})
    rows = []
    for system in dict.fromkeys(cell["system"] for cell in cells):
        row = [system]
        for number in numbers:
            cell = at.get((system, number))
            if cell is None:
                row += [""] * 4
                continue
            over, ours = cell["over_fewest"], cell["times_ours"]
            row += [
                ms(cell["total_ms"]["p50"]), ms(cell["read_ms"]),
                "" if number == cell["fewest"] else f"{over:.2f}",
                "" if ours is None else f"{ours:.2f}",
            ]  # fmt: skip
        rows.append(row)
    heads = [head for number in numbers for head in (f"K={number}", "bar", "x few", "x ours")]
    return columns(["", *heads], rows)


def mix(result: Mapping[str, Any]) -> list[str]:
    """A block for each number of sessions: percentiles from when something was due."""
    lines: list[str] = []
    cells: Sequence[Mapping[str, Any]] = result["mix_cells"]
    for sessions in sorted({cell["sessions"] for cell in cells}):
        group = [cell for cell in cells if cell["sessions"] == sessions]
        settings = result["settings"]["mix"]
        lines += [
            "",
            f"{sessions} sessions for {settings['seconds']:g} s, {group[0]['bars']:,} bars and "
            f"{group[0]['questions']:,} questions; ms from when it was due, percentiles; then "
            "questions and bars unfinished, and processors busy",
            columns(
                [
                    "", *("first 50", "90", "99", "last 50", "90", "99", "visible 50", "90", "99"),
                    "unanswered", "unread", "busy",
                ],
                [_mix_row(cell) for cell in group],
            ),
        ]  # fmt: skip
    if cells:
        lines.append(
            "what was unfinished after the grace period counts with its age then, a lower bound; "
            "no time of a bar: it is read with the next question"
        )
    return lines


def _mix_row(cell: Mapping[str, Any]) -> list[str]:
    return [
        cell["system"],
        *(
            "" if cell[what] is None else ms(cell[what][p])
            for what in ("first_ms", "last_ms", "visible_ms")
            for p in PERCENTILES
        ),
        str(cell["unfinished_questions"]) if cell["unfinished_questions"] else "",
        str(cell["unfinished_bars"]) if cell["unfinished_bars"] else "",
        f"{cell['processors']:.2f}",
    ]
