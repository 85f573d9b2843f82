"""A made-up market, the same for the same seed: regimes, jumps, quiet stretches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

START = dt.datetime(2026, 1, 5, 9, 30)


def bars_of(
    bars: int, rng: np.random.Generator, *, start: float = 100.0, step: float = 0.002
) -> dict[str, np.ndarray]:
    """``bars`` bars as arrays ``o h l c`` (price units, five significant digits) and ``v`` (int).

    ``start`` is the first open; ``step`` is the usual relative move of one bar (0.002 is 20 basis
    points). The price goes through regimes of 8 to 60 bars, each with its own drift and size of
    move; about one bar in 60 opens with a gap, and one in 80 jumps.
    """
    drift = np.empty(bars)
    size = np.empty(bars)
    at = 0
    while at < bars:
        length = int(rng.integers(8, 61))
        quiet = rng.choice([0.25, 1.0, 1.0, 2.5])
        size[at : at + length] = step * quiet
        drift[at : at + length] = step * quiet * rng.choice([-0.6, -0.25, 0.0, 0.25, 0.6])
        at += length
    move = drift + size * rng.standard_normal(bars)
    move += np.where(rng.random(bars) < 1 / 80, 6 * size * rng.standard_normal(bars), 0.0)
    gap = np.where(rng.random(bars) < 1 / 60, 2 * size * rng.standard_normal(bars), 0.0)
    gap[0] = 0.0
    log_close = np.log(start) + np.cumsum(move + gap)
    close = five_digits(np.exp(log_close))
    # each bar opens where the one before closed, save for gaps
    opened = five_digits(np.concatenate([[start], close[:-1]]) * np.exp(gap))
    wick = size * np.abs(rng.standard_normal((2, bars))) * 0.5
    high = five_digits(np.maximum(opened, close) * (1 + wick[0]))
    low = five_digits(np.minimum(opened, close) * (1 - wick[1]))
    scale = 10 ** rng.uniform(1.5, 5.0)
    volume = scale * np.exp(0.5 * rng.standard_normal(bars)) * (1 + np.abs(move) / step)
    return {"o": opened, "h": high, "l": low, "c": close, "v": volume.astype(np.int64) + 1}


def five_digits(values: np.ndarray) -> np.ndarray:
    """Positive ``values`` rounded to five significant digits."""
    unit = 10.0 ** (np.floor(np.log10(values)) - 4)
    return np.round(np.round(values / unit) * unit, 10)


def market(
    bars: int,
    seed: int,
    symbols: Sequence[str] = ("BTC",),
    *,
    start: float = 100.0,
    step: float = 0.002,
    every: dt.timedelta = dt.timedelta(minutes=1),
) -> pl.DataFrame:
    """``bars`` bars of each symbol, by time then symbol: ``time symbol o h l c v``.

    The frame depends only on the arguments. ``start`` and ``step`` are as in `bars_of`; ``every``
    is the time between bars; a single symbol may be given as it is. Raises ValueError when
    ``bars`` or ``symbols`` name nothing.
    """
    symbols = [symbols] if isinstance(symbols, str) and symbols else symbols
    if bars < 1 or not symbols:
        raise ValueError(f"expected at least 1 bar and 1 symbol, got {bars} and {symbols!r}")
    import polars as pl

    frames = []
    for index, symbol in enumerate(symbols):
        columns = bars_of(bars, np.random.default_rng([seed, index]), start=start, step=step)
        frames.append(
            pl.DataFrame(
                {"time": [START + every * bar for bar in range(bars)], "symbol": [symbol] * bars}
                | columns
            ).with_columns(at=pl.int_range(bars), order=pl.lit(index))
        )
    return pl.concat(frames).sort("at", "order").drop("at", "order")
