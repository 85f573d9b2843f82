"""What polars says: truths as the model could know them, prices as printed, of five digits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from workbench.streams.render import count_text, price_text

Truth = Callable[[pl.DataFrame], str | None]  # None: too few rows, or a tie
UP_DOWN = ("up", "down")
SIDES = ("above", "below")


def last(column: str) -> Truth:
    """The last value of ``column``, as it is printed."""

    def truth(frame: pl.DataFrame) -> str | None:
        return count_text(frame[column][-1]) if frame.height else None

    return truth


def direction(column: str, rows: int) -> Truth:
    """Whether ``column`` is up or down over ``rows`` rows."""

    def truth(frame: pl.DataFrame) -> str | None:
        if frame.height <= rows:
            return None
        return _compared(frame[column][-1 - rows], frame[column][-1], UP_DOWN)

    return truth


def bar_direction(frame: pl.DataFrame) -> str | None:
    """Whether the last bar closed above or below its open: up or down."""
    return _compared(frame["o"][-1], frame["c"][-1], UP_DOWN) if frame.height else None


def average(frame: pl.DataFrame) -> str:
    """The mean close of the last 20 bars, as a person would write it."""
    return price_text(float(np.mean(frame["c"].tail(20).to_numpy())))


def side(frame: pl.DataFrame) -> str | None:
    """Whether the last close is above or below `average`."""
    return _compared(float(average(frame)), frame["c"][-1], SIDES) if frame.height > 1 else None


def _compared(before: float, after: float, words: tuple[str, str]) -> str | None:
    one, other = float(price_text(before)), float(price_text(after))
    return None if one == other else words[0] if other > one else words[1]
