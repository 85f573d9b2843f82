"""Made-up streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from workbench.streams.render import schema_for
from workbench.tape.generators import SCHEMAS, UNSEEN, make_stream
from workbench.tape.moments import mark, value_of


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("regime", ["train", *UNSEEN])
def test_streams_depend_only_on_the_seed(schema, regime):
    def draw(seed):
        return make_stream(np.random.default_rng(seed), 30, schema, regime=regime)

    assert draw(1) == draw(1)
    assert draw(1).lines != draw(2).lines


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("several", [False, True])
def test_rows_are_what_was_asked_for_and_read_back(schema, several):
    rng = np.random.default_rng(7)
    for regime in ("train", *UNSEEN):
        stream = make_stream(rng, 24, schema, several=several, regime=regime)
        assert len(stream.rows) == len(stream.lines) == 24
        assert sorted(n for own in stream.members.values() for n in own) == list(range(24))
        schema_for(schema).parse("".join(stream.lines))
        if several and schema in ("ohlcv", "vitals"):
            assert len(stream.members) > 1


@pytest.mark.parametrize("schema", ["ohlcv", "iot", "spatial", "rows"])
def test_values_are_what_the_renderer_prints(schema):
    rng = np.random.default_rng(3)
    for regime in ("train", *UNSEEN):
        stream = make_stream(rng, 20, schema, regime=regime)
        for row in stream.rows:
            for column, value in row.items():
                if isinstance(value, float):
                    assert value_of(row, column, schema) == value


def test_sensors_leave_their_limits_stick_and_fail():
    rng = np.random.default_rng(5)
    marks = []
    stuck = 0
    for _ in range(40):
        rows = make_stream(rng, 60, "iot", several=False).rows
        marks += [mark("iot", row) for row in rows]
        values = [row["value"] for row in rows]
        stuck += any(len(set(values[n : n + 4])) == 1 for n in range(57))
    assert set(marks) == {"ok", "low", "high", "fault"}
    assert 0.4 < marks.count("ok") / len(marks) < 0.95
    assert stuck > 3


def test_readings_and_columns_may_go_below_zero():
    rng = np.random.default_rng(6)
    below = {"iot": 0, "rows": 0, "vitals": 0, "ohlcv": 0}
    for schema in below:
        for _ in range(60):
            stream = make_stream(rng, 12, schema)
            numbers = [v for row in stream.rows for v in row.values() if isinstance(v, float | int)]
            below[schema] += min(numbers) < 0
            assert all(row["low"] <= row["high"] for row in stream.rows if schema == "iot")
    assert below["vitals"] == below["ohlcv"] == 0
    assert 3 < below["iot"] < 25 and 3 < below["rows"] < 45
    for regime in UNSEEN:  # these stay as they are, so that scores compare
        rows = make_stream(rng, 60, "iot", regime=regime).rows
        assert min(row["value"] for row in rows if row["value"] is not None) > 0


def test_markets_have_gaps_jumps_and_still_bars():
    rng = np.random.default_rng(6)
    still = gaps = 0
    spread = []
    for _ in range(30):
        rows = make_stream(rng, 80, "ohlcv", several=False).rows
        still += sum(row["o"] == row["c"] for row in rows)
        gaps += sum(a["c"] != b["o"] for a, b in itertools.pairwise(rows))
        moves = np.abs(np.diff(np.log([row["c"] for row in rows])))
        spread.append(moves.max() / (np.median(moves) + 1e-9))
    assert still > 5
    assert gaps > 15
    assert np.median(spread) > 4
