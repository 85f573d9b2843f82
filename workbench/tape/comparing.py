"""Questions that compare two numbers: one of the stream with one of the question, or two of either.

A model this small learns to compare numbers that stand side by side in a question long before it
compares what it first has to find, and to copy the larger one before it says which side it is on
(LOG.md, 19 to 21). So beside ``level``, which people ask, there are ``larger``, whose answer is one
of the two numbers, and ``compare``, which needs no stream. At a ``plain`` moment it is always the
larger one that is asked for, and a number that the last value is compared with.
"""

from __future__ import annotations

import math

import numpy as np

from workbench.streams.render import price_text
from workbench.tape import wording
from workbench.tape.moments import Asked, Moment, shown, value_of

OFFSETS = (0.3, 1.0, 3.0, 10.0)  # of a level, in usual steps of the value
ZERO = 0.1  # share of levels that are zero, where values go below it
NEGATIVE = 0.3  # share of pairs
SIDES = ("above", "below")


def level(at: Moment) -> Asked | None:
    """Whether somebody's last value is above or below a number: in these words, or yes and no."""
    name, rows = at.whose()
    column = "c" if at.schema == "ohlcv" and at.rng.random() < 0.7 else at.column()
    number = _near(at, rows, column)
    if number is None:
        return None
    last = value_of(rows[-1], column, at.schema)
    assert last is not None
    x = at.word(column, name)
    over = last > float(number)
    draw = at.rng.random()
    if draw < 0.25:
        return _yes_or_no(at, "level", wording.LEVEL_IS, over, x=x, n=number, column=column)
    if draw < 0.32 and not at.plain:
        text = at.pick(wording.LEVEL_TURNED).format(x=x, n=number)
        return at.asked("level", text, SIDES[over], SIDES, 0, column)
    only = at.schema == "ohlcv" and column == "c" and not name and not at.several
    form = at.pick(wording.LEVEL_BARS if only and at.rng.random() < 0.15 else wording.LEVEL)
    return at.asked("level", form.format(x=x, n=number), SIDES[not over], SIDES, 0, column)


def larger(at: Moment) -> Asked | None:
    """Which of two numbers is larger, or smaller: the last value, and one near it, or one from k
    rows before, or the last one of another member."""
    name, rows = at.whose()
    column = "c" if at.schema == "ohlcv" and at.rng.random() < 0.5 else at.column()
    if value_of(rows[-1], column, at.schema) is None:
        return None
    draw = 1.0 if at.plain else at.rng.random()
    one = shown(rows[-1], column, at.schema)
    said = f"the last {at.word(column, name)}"
    k = at.look_back(len(rows)) if draw < 0.3 else 0
    if k:
        row, called = rows[-1 - k], f"the {at.word(column, name)} {k} {at.rows_word()} ago"
    elif at.several and draw < 0.55:
        other = at.pick([member for member in at.members if member != name])
        row, called = at.stream.rows[at.members[other][-1]], f"the last {at.word(column, other)}"
    else:
        number = _near(at, rows, column)
        return None if number is None else _which(at, (said, one), (number, number), column, 0)
    if value_of(row, column, at.schema) is None:
        return None
    return _which(at, (said, one), (called, shown(row, column, at.schema)), column, k)


def compare(at: Moment) -> Asked | None:
    """Two numbers of the question's own: which is larger, or whether one is above the other."""
    first, second = _two(at.rng)
    draw = at.rng.random()
    if draw < 0.45:
        return _which(at, (first, first), (second, second), "", 0, family="compare")
    over = float(first) > float(second)
    if draw < 0.75:
        text = at.pick(wording.COMPARE).format(x=first, n=second)
        return at.asked("compare", text, SIDES[not over], SIDES)
    return _yes_or_no(at, "compare", wording.COMPARE_IS, over, x=first, n=second, column="")


def _which(
    at: Moment, one: tuple[str, str], other: tuple[str, str], column: str, k: int, *,
    family: str = "larger",
) -> Asked | None:  # fmt: skip
    """Which of two is larger or smaller, each as the question calls it and as it is printed."""
    (_, a), (_, b) = one, other
    if float(a) == float(b):
        return None
    most = at.plain or at.rng.random() < 0.75
    answer = a if (float(a) > float(b)) == most else b
    said = [one[0], other[0]] if at.rng.random() < 0.5 else [other[0], one[0]]
    forms = wording.WHICH_LARGER if most else wording.WHICH_SMALLER
    text = at.pick(forms).format(a=said[0], b=said[1])
    return at.asked(family, text, answer, (), k, column)


def _yes_or_no(
    at: Moment, family: str, forms: dict[str, tuple[str, ...]], over: bool, *,
    x: str, n: str, column: str,
) -> Asked:  # fmt: skip
    side = "above" if at.plain else at.pick((*SIDES, "above"))
    text = at.pick(forms[side]).format(x=x, n=n)
    yes = over == (side == "above")
    return at.asked(family, text, "yes" if yes else "no", ("yes", "no"), 0, column)


def _near(at: Moment, rows: list, column: str) -> str | None:
    """A number near the last of ``rows``, as people write one; None for a fault, or where it is the
    same."""
    last = value_of(rows[-1], column, at.schema)
    if last is None:
        return None
    recent = [value_of(row, column, at.schema) for row in rows[-12:]]
    steps = np.abs(np.diff([value for value in recent if value is not None]))
    usual = float(steps.mean()) if len(steps) else 0.0
    away = (usual + 1e-4 * abs(last)) * at.rng.choice(OFFSETS) * at.rng.uniform(0.5, 1.5)
    number = last + away * at.rng.choice([-1, 1])
    if any(value is not None and value < 0 for value in recent):
        number = 0.0 if at.rng.random() < ZERO else number
    elif number * last < 0 or number == 0:  # what has never been below zero is not compared there
        number = last * at.rng.choice([0.5, 1.5])
    text = price_text(number)
    whole = isinstance(rows[-1][column], int)
    if whole or at.rng.random() < 0.3:
        digits = max(0, (2 if at.rng.random() < 0.5 else 3) - len(str(int(abs(number)))))
        text = f"{number:.{digits}f}"
    text = "0" if float(text) == 0 else text
    return None if float(text) == last else text


def _two(rng: np.random.Generator) -> tuple[str, str]:
    """Two numbers of up to six digits that differ by 0.02 to 50 percent, in any order."""
    while True:
        size = 10 ** rng.uniform(-1.0, 5.0)
        apart = math.exp(rng.uniform(math.log(2e-4), math.log(0.5)))
        pair = [size, size * (1 + apart)]
        digits = int(rng.integers(0, 4)) if rng.random() < 0.5 else None
        sign = "-" if rng.random() < NEGATIVE else ""
        texts = [price_text(v) if digits is None else f"{v:.{digits}f}" for v in pair]
        if float(texts[0]) != float(texts[1]):
            first = int(rng.integers(2))
            return sign + texts[first], sign + texts[1 - first]
