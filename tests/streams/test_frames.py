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


def test_what_pandas_has_for_nothing_is_none_as_in_polars():
    frame = pd.DataFrame({
        "time": [pd.Timestamp("2026-01-05"), pd.NaT], "n": pd.array([1, None], dtype="Int64"),
    })  # fmt: skip
    first, second = to_rows(frame)
    assert first == {"time": pd.Timestamp("2026-01-05"), "n": 1}
    assert second == {"time": None, "n": None}


def test_a_row_of_a_frame_and_a_named_tuple_are_rows():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    wanted = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert [row for _, each in frame.iterrows() for row in to_rows(each)] == wanted
    assert to_rows(frame.itertuples(index=False)) == wanted
    numbers = pd.DataFrame(ROWS).iloc[0]
    (row,) = to_rows(numbers)
    assert row == {"a": 1.0, "b": 2.5} and type(row["b"]) is float


def test_a_column_of_texts_is_a_text_a_row():
    texts = ["up", "down"]
    assert to_rows(pd.DataFrame({"said": texts})["said"]) == texts
    assert to_rows(pd.Series(texts, index=["BTC", "BTC"])) == texts


@pytest.mark.parametrize(("data", "message"), [
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), "got several of 'a'; rename or drop them"),
    (pl.Series([1.0, 2.0]), "a list of float; push a frame, or each row"),
    (3.5, "got float"), (None, "got NoneType"), ([1, 2], "a list of int"),
    ([{"a": 1}, "x"], "a list of dict, str"), (b"\xff", "got byte 0xff at 0"),
])  # fmt: skip
def test_anything_else_is_refused(data, message):
    with pytest.raises(RowError, match=message):
        to_rows(data)


def test_values_of_named_tuples_and_dicts_are_plain_too():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
    rows = [{"a": 1}, {"a": None}]
    assert to_rows(frame.itertuples(index=False)) == rows == to_rows(frame.to_dict("records"))
    (row,) = to_rows({"a": np.float32(0.5), "b": pd.NaT})
    assert row == {"a": 0.5, "b": None} and type(row["a"]) is float
