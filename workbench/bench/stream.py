"""The stream a benchmark reads: bars of a made-up market, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from workbench.streams.market import bars_of
from workbench.streams.render import Row, schema_for

SCHEMA = "ohlcv"
BLOCK = 1024  # bars made at a time


def bars(seed: int) -> Iterator[Row]:
    """Bars without end, as rows ``o h l c v``."""
    block = 0
    start = 100.0
    while True:
        columns = bars_of(BLOCK, np.random.default_rng([seed + block, 0]), start=start)
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        yield from rows
        start = rows[-1]["c"]
        block += 1


def take(rows: Iterator[Row], num_tokens: int, encode: Callable[[str], list[int]]) -> list[Row]:
    """The next rows, until they are at least ``num_tokens`` tokens as ``encode`` counts them."""
    schema = schema_for(SCHEMA)
    taken: list[Row] = []
    length = 0
    while length < num_tokens:
        row = next(rows)
        taken.append(row)
        length += len(encode(schema.render([row])))
    return taken
