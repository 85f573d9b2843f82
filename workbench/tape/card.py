"""The card of a folder of weights, for people: what it can do, decided by its scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SURE, OFTEN = 0.9, 0.67
TRUSTED = 2048  # the "can do" lists hold for contexts up to so many tokens
MARGIN = 0.1  # a kind that does not beat its baseline by so much is not done at all
FEWEST = 20  # questions below which a figure says nothing
AIMS = {
    "last value": 0.98, "last move": 0.98, "last bar up or down": 0.95,
    "up or down over k rows": 0.95, "volume up or down": 0.95, "above or below a number": 0.95,
}  # fmt: skip
AIM = 0.9
FAR_AIM = 0.05  # at 8192 tokens, no more than so much below 2048

Score = dict[str, Any]


def kinds(scores: Iterable[Score]) -> dict[tuple[str, str], dict[int, Score]]:
    """The held-out scores by kind of rows and question, then by length of context."""
    found: dict[tuple[str, str], dict[int, Score]] = {}
    for score in scores:
        if score["where"] == "held out" and score["questions"] >= FEWEST:
            found.setdefault((score["schema"], score["what"]), {})[score["context"]] = score
    return found


def worst(by_length: dict[int, Score]) -> tuple[float, float]:
    """The lowest accuracy at the trusted lengths, and the highest baseline there."""
    near = [score for length, score in by_length.items() if length <= TRUSTED]
    if not near:
        return 0.0, 1.0
    return min(s["accuracy"] for s in near), max(s["baseline"] for s in near)


def verdicts(scores: Iterable[Score]) -> dict[str, list[tuple[str, str, float]]]:
    """Each kind's verdict, ``sure``, ``often`` or ``not``: (rows, question, worst accuracy)."""
    made: dict[str, list[tuple[str, str, float]]] = {"sure": [], "often": [], "not": []}
    for (schema, what), by_length in sorted(kinds(scores).items()):
        low, base = worst(by_length)
        # Where one answer is always right, a baseline says nothing.
        beats = base == 1 or low >= base + min(MARGIN, (1 - base) / 2)
        verdict = "sure" if low >= SURE and beats else "often" if low >= OFTEN and beats else "not"
        made[verdict].append((schema, what, low))
    return made


def tables(scores: list[Score]) -> str:
    """The scores as Markdown: held-out streams by length, then all others by kind."""
    held = kinds(scores)
    lengths = sorted({length for by_length in held.values() for length in by_length})
    lines = [
        "| rows | question, context in tokens | "
        + " | ".join(map(str, lengths))
        + " | baseline | free text |",
        "| --- | --- |" + " ---: |" * (len(lengths) + 2),
    ]
    for (schema, what), by_length in sorted(held.items()):
        known = list(by_length.values())
        total = sum(s["questions"] for s in known)
        base, free = (
            sum(s[name] * s["questions"] for s in known) / total for name in ("baseline", "free")
        )
        shown = " | ".join(
            f"{by_length[length]['accuracy']:.0%}" if length in by_length else ""
            for length in lengths
        )
        lines.append(f"| {schema} | {what} | {shown} | {base:.0%} | {free:.0%} |")
    for title, wanted in (
        ("unseen regimes, 1024 tokens", "unseen"),
        ("names off no list, 1024 tokens", "names"),
        ("real rows, plotly's stocks", "real"),
        ("how far back", "by k"),
    ):
        lines += ["", f"| {title} | question | questions | right | baseline |"]
        lines.append("| --- | --- | ---: | ---: | ---: |")
        lines += [
            f"| {name} | {what} | {count} | {right:.0%} | {base:.0%} |"
            for name, what, count, right, base in _merged(scores, wanted)
        ]
    return "\n".join(lines) + "\n"


def _merged(
    scores: list[Score], wanted: str
) -> list[tuple[str, str, int, float, float]]:
    """Scores of one origin; unseen regimes are merged over the kinds of rows."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        if score["where"].startswith(wanted):
            name = score["where"].removeprefix("unseen ") if wanted == "unseen" else score["schema"]
            groups.setdefault((name, score["what"]), []).append(score)
    made = []
    for (name, what), of in groups.items():
        total = sum(s["questions"] for s in of)
        right, base = (
            sum(s[key] * s["questions"] for s in of) / total for key in ("accuracy", "baseline")
        )
        if total >= FEWEST:
            made.append((name, what, total, right, base))
    return made


def aims(scores: list[Score]) -> tuple[list[str], list[str]]:
    """What falls short at 2048 tokens, and what loses too much from there to 8192, as lines."""
    short, far = [], []
    for (schema, what), by_length in sorted(kinds(scores).items()):
        near, last = by_length.get(TRUSTED), by_length.get(8192)
        aim = AIMS.get(what, AIM)
        if near and near["accuracy"] < aim:
            short.append(f"{schema}, {what}: {near['accuracy']:.0%}, aim {aim:.0%}")
        if near and last and last["accuracy"] < near["accuracy"] - FAR_AIM:
            far.append(f"{schema}, {what}: {near['accuracy']:.0%} to {last['accuracy']:.0%}")
    return short, far


def card_text(card: dict[str, Any]) -> str:
    """The whole card as Markdown."""
    trained, scores = card["trained"], card["scores"]
    found = verdicts(scores)
    titles = {
        "sure": "It does these, right at least nine times in ten at every length up to 2048 tokens",
        "often": "It does these far more often than not, at least two times in three",
        "not": "Do not rely on it for these, which it was trained on as well: it is right too "
        "seldom, or hardly more often than always giving the commonest answer",
    }
    lists = []
    for verdict, title in titles.items():
        if found[verdict]:
            lists.append(f"{title}:\n")
            lists.append("\n".join(f"- {s}: {w}: {low:.0%}" for s, w, low in found[verdict]) + "\n")
    short, far = aims(scores)
    falls = "\n".join(f"- {line}" for line in short) or "- nothing"
    loses = "\n".join(f"- {line}" for line in far) or "- nothing"
    longest = max(stage["context"] for stage in trained["recipe"]["stages"])
    began = trained.get("began", 0)
    parts = f"; `--begin-with` after step {began}, LOG.md says why" if began else ""
    calibration = card["calibration"]
    reliable = "\n".join(
        f"| {b['from']:.1f} | {b['questions']} | {b['said']:.0%} | {b['right']:.0%} |"
        for b in calibration["reliability"]
    )
    return f"""# tape: the embedded model

A Llama of {trained["parameters"] / 1e6:.1f} M parameters that this project trained from nothing to
read rows of data as they stream in and answer a few kinds of question about them. It knows no
language beyond that, and nothing about markets, machines or people: it reads what is in its
context. `workbench/streams/render.py` says how the rows of each schema read, `wording.py` how
questions are worded, `questions.py` what is true. It was trained on such questions only: other
wordings, conversation, forecasts and advice were not measured, so expect nonsense there.

Trained for {trained["minutes"]:.0f} minutes, {trained["steps"]} steps,
{trained["tokens"] / 1e6:.1f} M tokens of made-up streams in contexts of up to {longest} tokens,
seed {trained["recipe"]["seed"]} (`python -m workbench.tape train`{parts}).
Weights are bfloat16; SHA-256 `{trained["sha256"]}`.

## What it can do

The figure is the worst of the lengths measured up to {TRUSTED} tokens.

{chr(10).join(lists)}
What falls short of what was aimed at, at 2048 tokens:

{falls}

What loses more than {FAR_AIM:.0%} from 2048 to 8192 tokens:

{loses}

## Figures

Held-out streams, asked about the last quarter of a context of the stated length. Closed questions
count as `choices=` decides, the others as exact text; "free text" is exact text for all. The
baseline is always giving the commonest answer; "not in the data" has only one, so read it beside
"last value", which falls where a model says that too often. The questions about one stream go
together, and at 8192 tokens there are few streams: take differences of a few points there for
chance.

{tables(scores)}
## Calibration

The chance of a choice means how often it is right once log chances are divided by
{calibration["temperature"]} (`calibration.json`, fitted on half of the closed questions up to 2048
tokens; these are the other half, {calibration["questions"]} questions). The expected calibration
error is {calibration["error_before"]:.1%} before and {calibration["error_after"]:.1%} after that.

| chance from | questions | said | right |
| --- | ---: | ---: | ---: |
{reliable}
"""
