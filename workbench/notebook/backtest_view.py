"""How a back-test looks, complete or under way: counts, a strip of answers, first and last rows."""

from __future__ import annotations

from workbench.answer import Answer
from workbench.backtest import Backtest
from workbench.notebook.markup import (
    ALARM,
    FAINT,
    INK,
    LINE,
    answers_strip,
    badge,
    chances_strip,
    colour_of,
    share_bar,
    text,
)

ENDS = 3  # answers shown from the beginning, and from the end
SLOTS = 180  # answers in the strip at most
NAMED = 6  # different answers that are counted by name, as many as there are colours
SHORT = 40  # letters of an answer


def backtest_text(test: Backtest) -> str:
    """Its question, how far it is, how often each answer was given, and a few of them."""
    answers = test.answers
    lines = [test.question, f"[{' | '.join(_facts(test, answers))}]"]
    if answers:
        lines.append(", ".join(f"{_short(said)} {number}" for said, number in _counts(test)))
    shown = _table(answers)
    widths = [max(len(row[at]) for row in shown) for at in range(4)] if answers else []
    for row, version, said, sure in shown if answers else ():
        columns = [row.rjust(widths[0]), version.rjust(widths[1]), said.ljust(widths[2]), sure]
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines)


def backtest_html(test: Backtest) -> str:
    """The same, with its answers over the rows as a strip, and a bar while it is under way."""
    answers = test.answers
    parts = [_line(test.question, FAINT)]
    if test.finish_reason != "done":
        share = test.answered / test.total if test.total else 0.0
        parts.append(f'<div style="margin:4px 0">{share_bar([share], [colour_of(0)])}</div>')
    if answers:
        counts = _counts(test)
        parts += [_counts_html(counts), _strip_html(test, answers, counts), _table_html(answers)]
    parts.append(f"<div>{''.join(map(badge, _facts(test, answers)))}</div>")
    if test.finish_reason == "error":
        parts.append(_line(f"{type(test.error).__name__}: {test.error}", ALARM))
    return f'<div style="max-width:560px">{"".join(parts)}</div>'


def _facts(test: Backtest, answers: list[Answer]) -> list[str]:
    """How far it is, over which rows, and how it ended."""
    of = "" if test.finish_reason == "done" or not test.total else f" of {test.total:,}"
    noun = "moment" if max(len(answers), test.total) == 1 else "moments"
    facts = [f"{len(answers):,}{of} {noun}"]
    if answers:
        facts.append(f"rows {answers[0].row:,} to {answers[-1].row:,}")
    if test.finish_reason != "done":
        facts.append({None: "under way", "error": "failed"}.get(test.finish_reason, "cancelled"))
    return facts


def _counts(test: Backtest) -> list[tuple[str, str]]:
    """How often each answer was given; of too many different ones only how many there are."""
    counts = test.counts()
    if not test.choices and len(counts) > NAMED:
        return [(f"{len(counts):,} different answers", "")]
    return [(said, f"\u00d7\u2009{number:,}") for said, number in counts.items()]


def _table(answers: list[Answer]) -> list[tuple[str, str, str, str]]:
    """Row, version, answer and confidence, of the first and the last answers."""
    rows = [
        (f"{a.row:,}", f"{a.version:,}", _short(a.text), f"{a.confidence:.2f}") for a in answers
    ]
    if len(rows) > 2 * ENDS + 1:
        rows[ENDS:-ENDS] = [("\u2026", "", "", "")]
    return [("row", "version", "answer", "confidence"), *rows]


def _counts_html(counts: list[tuple[str, str]]) -> str:
    parts = []
    for at, (said, number) in enumerate(counts):
        colour = colour_of(at)
        swatch = (
            f'<span style="display:inline-block;width:9px;height:9px;border-radius:2px;'
            f'background:{colour};margin-right:5px"></span>'
        )
        parts.append(
            f'<span style="margin-right:14px;color:{INK};overflow-wrap:anywhere">{swatch}'
            f"{text(_short(said))} <b>{number}</b></span>"
        )
    return f'<div style="margin:4px 0">{"".join(parts)}</div>'


def _strip_html(test: Backtest, answers: list[Answer], counts: list[tuple[str, str]]) -> str:
    """A stroke per answer; while it is under way, as wide as what has been answered."""
    step = -(-len(answers) // SLOTS)
    some = answers[::step]
    first, last = answers[0].row, answers[-1].row
    title = f"Answers as of rows {first:,} to {last:,}"
    if len(test.choices) == 2:
        chances = [answer.probabilities[test.choices[0]] for answer in some]
        strip = chances_strip(chances, len(some), title)
    else:
        places = {said: at for at, (said, _) in enumerate(counts)}
        runs = [(places.get(answer.text, 0), answer.confidence) for answer in some]
        strip = answers_strip(runs, len(some), title)
    width = 100.0 if test.finish_reason == "done" else 100 * len(answers) / max(test.total, 1)
    rows = f"<span>row {first:,}</span><span>row {last:,}</span>"
    return (
        f'<div style="width:{width:.1f}%;min-width:90px"><div style="border-bottom:1px solid '
        f'{LINE}">{strip}</div><div style="display:flex;justify-content:space-between;'
        f'font-size:11px;color:{FAINT}">{rows}</div></div>'
    )


def _table_html(answers: list[Answer]) -> str:
    head, *rows = _table(answers)
    aligns = ("right", "right", "left", "right")

    def cells(tag: str, values: tuple[str, ...], colour: str) -> str:
        return "".join(
            f'<{tag} style="text-align:{align};color:{colour};padding:1px 10px 1px 0;'
            f'overflow-wrap:anywhere">{text(value)}</{tag}>'
            for value, align in zip(values, aligns, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row, INK)}</tr>" for row in rows)
    return f'<table style="margin:4px 0"><tr>{cells("th", head, FAINT)}</tr>{body}</table>'


def _line(words: str, colour: str) -> str:
    return (
        f'<div style="color:{colour};white-space:pre-wrap;overflow-wrap:anywhere">'
        f"{text(words)}</div>"
    )


def _short(said: str) -> str:
    """An answer in one short line."""
    line = " ".join(said.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "\u2026"
