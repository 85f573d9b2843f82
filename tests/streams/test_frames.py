"""Everything a person may push becomes rows."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from workbench.errors import RowError
from workbench.streams.frames import to_rows

ROWS = [{"a": 1, "b": 2.5}, {"a": 3, "b": 4.5}]


@pytest.mark.parametrize("data", [
    ROWS, tuple(ROWS), (row for row in ROWS), pl.DataFrame(ROWS), pl.LazyFrame(ROWS),
    pd.DataFrame(ROWS),
])  # fmt: skip
def test_rows(data):
    assert to_rows(data) == ROWS


def test_one_row_and_texts():
    assert to_rows(ROWS[0]) == ROWS[:1]
    assert to_rows("one\ntext") == ["one\ntext"]
    assert to_rows([b"caf\xc3\xa9", "x"]) == ["café", "x"]
    assert to_rows([]) == []


def test_pandas_values_are_plain_and_its_index_is_no_column():
    frame = pd.DataFrame({"a": np.array([1], dtype="int16")}, index=["k"])
    (row,) = to_rows(frame)
    assert row == {"a": 1} and type(row["a"]) is int


@pytest.mark.parametrize(("data", "message"), [
    (3.5, "got float"), (None, "got NoneType"), ([1, 2], "a list of int"),
    ([{"a": 1}, "x"], "a list of dict, str"), (b"\xff", "got byte 0xff at 0"),
])  # fmt: skip
def test_anything_else_is_refused(data, message):
    with pytest.raises(RowError, match=message):
        to_rows(data)
