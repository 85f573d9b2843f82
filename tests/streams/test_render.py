"""Rows to text and back."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import RowError
from workbench.streams.render import TIME_NAMES, move_text, price_text, schema_for

BAR = {"o": 101.2, "h": 102.0, "l": 100.9, "c": 101.7, "v": 53_120}
finite = st.floats(-1e299, 1e299)
bars = st.fixed_dictionaries(
    {column: finite for column in "ohlc"}, optional={"v": st.integers(0, 10**15) | finite}
)
values = finite | st.integers() | st.text()
tables = st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.lists(
        st.fixed_dictionaries({name: values for name in names}), min_size=1, max_size=4
    )
)


def test_a_bar_reads_as_documented():
    assert (
        schema_for("ohlcv").render([{"symbol": "BTC"} | BAR])
        == "up6 BTC o101.20 h102.00 l100.90 c101.70 v53120\n"
    )


def test_long_names_any_case_and_a_time_column_read_the_same():
    row = {"Date": "2026-01-05", "OPEN": 101.2, "High": 102, "low": 100.9, "Close": 101.7}
    row["Volume"] = 53_120
    assert schema_for("ohlcv").render([row]) == schema_for("ohlcv").render([BAR])
    assert "date" in TIME_NAMES


def test_plain_rows_keep_the_order_of_the_first_row():
    schema = schema_for(None)
    text = schema.render([{"b": 1.5, "a": 2}, {"a": 3, "b": 0.25}])
    assert text == "b=1.5000 a=2\nb=0.25000 a=3\n"
    assert (schema.name, schema.columns) == ("rows", ("b", "a"))


def test_dates_decimals_and_numpy_numbers_are_values():
    row = {"d": dt.date(2026, 1, 5), "x": Decimal("1.25"), "n": np.int64(7), "f": np.float32(0.5)}
    assert schema_for("rows").render([row]) == "d=2026-01-05 x=1.2500 n=7 f=0.50000\n"


@given(st.lists(bars, min_size=1, max_size=4))
def test_bars_printed_and_parsed_print_the_same(rows):
    rows = [{c: row[c] for c in "ohlcv" if c in row and c in rows[0]} for row in rows]
    rows = [row for row in rows if len(row) == len(rows[0])]
    text = schema_for("ohlcv").render(rows)
    parsed = schema_for("ohlcv").parse(text)
    assert schema_for("ohlcv").render(parsed) == text
    for row, back in zip(rows, parsed, strict=True):
        for column, value in row.items():
            assert math.isclose(back[column], value, rel_tol=5.1e-5)


@given(tables)
def test_plain_rows_come_back_whole(rows):
    text = schema_for(None).render(rows)
    text.encode()
    assert len(text.splitlines()) == text.count("\n") == len(rows)
    for row, back in zip(rows, schema_for(None).parse(text), strict=True):
        assert list(back) == list(rows[0])
        for column, value in row.items():
            if isinstance(value, float):
                assert math.isclose(back[column], value, rel_tol=5.1e-5)
            else:
                assert back[column] == value


@given(finite.filter(bool))
def test_prices_have_five_digits_and_all_before_the_point(value):
    shown = price_text(value)
    assert math.isclose(float(shown), value, rel_tol=5.1e-5)
    mantissa = shown.lstrip("-").partition("e")[0].replace(".", "").lstrip("0")
    assert len(mantissa) >= 5


@pytest.mark.parametrize(
    ("opened", "closed", "shown"),
    [
        ("100.00", "100.00", "=0"),
        ("1000.0", "1000.1", "up1"),
        ("10000", "10000.5", "up0"),
        ("100.00", "99.975", "down2"),
        ("100.00", "100.04", "up3"),
        ("100.00", "300.00", "up9"),
        ("0", "1.0000", "up9"),
        ("-1.0000", "-2.0000", "down9"),
    ],
)
def test_moves_are_powers_of_two_of_a_basis_point(opened, closed, shown):
    assert move_text(opened, closed) == shown


@pytest.mark.parametrize(
    ("schema", "row", "says"),
    [
        (
            "ohlcv",
            BAR | {"c": math.nan},
            "row 1, column 'c': expected a finite number within 1e300, got nan",
        ),
        ("ohlcv", BAR | {"c": math.inf}, "finite"),
        ("rows", {"a": 1.79765e308}, "within 1e300"),
        ("rows", {"a": 10**400}, "within 1e300"),
        ("ohlcv", BAR | {"c": None}, "expected a number, got None"),
        ("ohlcv", BAR | {"c": True}, "got True (bool)"),
        ("ohlcv", BAR | {"c": "101"}, "got '101' (str); convert it first: float('101')"),
        ("ohlcv", BAR | {"c": "n/a"}, "got 'n/a' (str); fill or drop"),
        ("rows", {"a": pd.NaT}, "expected a value, got NaT"),
        ("ohlcv", BAR | {"x": 1}, "got 'x'"),
        ("ohlcv", BAR | {"close": 1}, "one column for 'c'"),
        ("ohlcv", {"o": 1.0}, "'h' is missing"),
        ("ohlcv", BAR | {"symbol": "BTC"}, "'symbol' is new"),
        ("ohlcv", [1, 2], "expected a dict"),
        ("rows", {"a": 1, "b": 2}, "'b' is new"),
        ("rows", {"b": 2}, "'a' is missing"),
        ("rows", {"a": [1]}, "expected a number"),
        ("rows", {"a": np.bool_(True)}, "expected a number"),
        ("rows", {1: 2}, "expected column names to be text"),
    ],
)
def test_a_bad_row_says_what_to_do_and_changes_nothing(schema, row, says):
    good = BAR if schema == "ohlcv" else {"a": 1}
    fresh = schema_for(schema)
    with pytest.raises(RowError) as caught:
        fresh.render([good, row])
    message = str(caught.value)
    assert says in message
    assert message.startswith("row 1")
    assert ";" in message
    assert "\n" not in message
    assert fresh.columns is None
    assert fresh.render([good]).endswith("\n")


def test_no_rows_are_no_text_and_an_unknown_schema_is_refused():
    schema = schema_for("ohlcv")
    assert schema.render([]) == ""
    assert schema.columns is None
    with pytest.raises(RowError, match="expected schema"):
        schema_for("candles")
    with pytest.raises(RowError, match="at least one column"):
        schema_for(None).render([{}])
    with pytest.raises(RowError, match="expected columns o, h, l and c"):
        schema.render([{"c": 3.0}])


@pytest.mark.parametrize("text", ["hello\n", "o1 h2\n", "a=1", "a=1  b=2\n", "a=1 \n", "\n"])
def test_other_text_is_not_parsed(text):
    for name in ("ohlcv", "rows"):
        with pytest.raises(RowError, match="pass text that render"):
            schema_for(name).parse(text)


@pytest.mark.parametrize("bad", [np.array([1, 2]), 10**5000, pd.NA, Decimal("sNaN")], ids=type)
def test_values_that_compare_or_print_badly_are_refused_as_others_are(bad):
    with pytest.raises(RowError, match="row 1, column 'a': expected a"):
        schema_for("rows").render([{"a": 1}, {"a": bad}])
    limits = {"sensor": "s", "low": 1, "high": 2}
    with pytest.raises(RowError, match="row 0, column 'value'"):
        schema_for("iot").render([limits | {"value": bad}])
