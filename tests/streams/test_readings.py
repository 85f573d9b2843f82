"""Sensors, vitals, events and moving things: rows to text and back."""

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
from workbench.streams.render import price_text, schema_for

finite = st.floats(-1e299, 1e299)
names = st.text(min_size=1)
whole = st.integers(-(10**15), 10**15)
ROWS = {
    "iot": st.fixed_dictionaries(
        {"sensor": names, "value": finite | st.none(), "low": finite, "high": finite}
    ),
    "vitals": st.fixed_dictionaries(
        {"patient": names, "hr": whole | finite, "temp": finite},
        optional={column: whole | finite for column in ("sys", "dia", "spo2")},
    ),
    "event": st.fixed_dictionaries(
        {"level": names, "source": names, "message": st.text()},
        optional={"time": st.text(min_size=1) | st.integers(0, 10**12)},
    ),
    "spatial": st.fixed_dictionaries({"id": names, "x": finite, "y": finite, "speed": finite}),
}
EXAMPLES = {
    "iot": (
        {"sensor": "s3", "value": 21.5, "low": 18, "high": 24.0},
        "ok s3 v21.500 lo18.000 hi24.000\n",
    ),
    "vitals": (
        {"patient": "bed4", "hr": 72, "sys": 120, "dia": 80, "spo2": 98, "temp": 36.8},
        "bed4 hr72 sys120 dia80 ox98 temp36.800\n",
    ),
    "event": (
        {
            "time": dt.datetime(2026, 1, 5, 9, 41, 5), "level": "ERROR", "source": "db",
            "message": "connection lost",
        },
        "ERROR db @09:41:05 : connection lost\n",
    ),
    "spatial": (
        {"id": "truck7", "x": 12.5, "y": -3.2, "speed": 4.1},
        "truck7 x12.500 y-3.2000 v4.1000\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("schema", list(EXAMPLES))
def test_a_row_reads_as_documented(schema):
    row, text = EXAMPLES[schema]
    assert schema_for(schema).render([row]) == text
    shown = {c: row[c] for c in row if c != "time"}
    (back,) = schema_for(schema).parse(text)
    assert {c: back[c] for c in shown} == shown
    if "time" in row:
        assert back["time"] == "09:41:05"


@pytest.mark.parametrize("schema", list(ROWS))
@given(data=st.data())
def test_rows_come_back_as_printed(schema, data):
    first = data.draw(ROWS[schema])
    rows = [first, *data.draw(st.lists(ROWS[schema].map(lambda r: r | {}), max_size=3))]
    rows = [row for row in rows if set(row) == set(first)]
    text = schema_for(schema).render(rows)
    text.encode()
    assert len(text.splitlines()) == text.count("\n") == len(rows)
    parsed = schema_for(schema).parse(text)
    assert schema_for(schema).render(parsed) == text
    for row, back in zip(rows, parsed, strict=True):
        assert set(back) == set(row)
        for column, value in row.items():
            if isinstance(value, float):
                assert math.isclose(back[column], value, rel_tol=5.1e-5)
            else:
                assert back[column] == value


@given(value=finite, low=finite, high=finite)
def test_the_mark_says_where_the_printed_value_lies(value, low, high):
    row = {"sensor": "s", "value": value, "low": low, "high": high}
    mark = schema_for("iot").render([row]).split()[0]
    value, low, high = (float(price_text(number)) for number in (value, low, high))
    assert mark == ("low" if value < low else "high" if value > high else "ok")


@pytest.mark.parametrize(
    "missing", [None, math.nan, np.float64("nan"), np.float32("nan"), Decimal("NaN")]
)
def test_a_value_that_is_missing_is_a_fault(missing):
    text = schema_for("iot").render([{"sensor": "s", "value": missing, "low": 1, "high": 2}])
    assert text == "fault s v? lo1.0000 hi2.0000\n"
    assert schema_for("iot").parse(text)[0]["value"] is None


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        ("iot", {"Sensor_ID": "s3", "Reading": 21.5, "min": 18, "MAX": 24, "time": "09:41"}),
        (
            "vitals",
            {
                "BED": "bed4", "Heart_Rate": 72, "systolic": 120, "diastolic": 80, "SpO2": 98,
                "Temperature": 36.8, "ts": 1,
            },
        ),
        (
            "event",
            {"Timestamp": dt.time(9, 41, 5), "severity": "ERROR", "service": "db",
             "msg": "connection lost"},
        ),
        ("spatial", {"vehicle": "truck7", "X": 12.5, "Y": -3.2, "velocity": 4.1, "t": 0}),
    ],
)  # fmt: skip
def test_other_names_in_any_case_read_the_same(schema, row):
    assert schema_for(schema).render([row]) == EXAMPLES[schema][1]


def test_ids_may_be_whole_numbers():
    assert schema_for("spatial").render([{"id": 7, "x": 1, "y": 2, "speed": 0}]).startswith('"7" ')
    row = {"sensor": 12, "value": 1.0, "low": 0, "high": 2}
    assert schema_for("iot").render([row]) == 'ok "12" v1.0000 lo0 hi2.0000\n'
    assert schema_for("vitals").render([{"patient": 3, "hr": 70}]) == '"3" hr70\n'


@pytest.mark.parametrize("name", ["hr1", "system", "ox", "temp", "@x", "diana", "a b", 'q"'])
def test_whose_vitals_they_are_is_never_taken_for_a_number(name):
    row = {"patient": name, "hr": 70, "temp": 36.8}
    assert schema_for("vitals").parse(schema_for("vitals").render([row])) == [row]


@pytest.mark.parametrize(
    ("schema", "row", "says"),
    [
        ("iot", {"sensor": "s", "value": 1.0}, "expected columns sensor, value, low and high"),
        ("iot", EXAMPLES["iot"][0] | {"value": "x"}, "column 'value': expected a number"),
        ("iot", EXAMPLES["iot"][0] | {"low": None}, "column 'low': expected a number"),
        ("iot", EXAMPLES["iot"][0] | {"sensor": ""}, "a name such as 's3'"),
        ("iot", EXAMPLES["iot"][0] | {"unit": "C"}, "got 'unit'"),
        ("vitals", {"hr": math.nan}, "finite"),
        ("vitals", {}, "expected columns"),
        ("vitals", {"bed": "b"}, "expected columns"),
        ("vitals", {"pulse": 1, "hr": 2}, "one column for 'hr'"),
        ("event", {"level": "INFO", "source": "a"}, "add message"),
        ("event", {"level": 3, "source": "a", "message": "b"}, "a name such as"),
        ("event", {"level": "INFO", "source": "a", "message": 5}, "expected text"),
        ("event", EXAMPLES["event"][0] | {"time": pd.NaT}, "column 'time': expected a time"),
        ("event", EXAMPLES["event"][0] | {"time": None}, "column 'time': expected a time"),
        ("vitals", {"hr": 72, "T": 39.5}, "got 'T'"),
        ("spatial", {"id": "a", "x": 1, "y": 2}, "add speed"),
        ("spatial", {"id": True, "x": 1, "y": 2, "speed": 1}, "a name such as"),
    ],
)
def test_a_bad_row_says_what_to_do(schema, row, says):
    with pytest.raises(RowError) as caught:
        schema_for(schema).render([row])
    message = str(caught.value)
    assert says in message
    assert message.startswith("row 0")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["hello\n", "ok s3 v1\n", "a=1\n", " hr70\n", "\n"])
@pytest.mark.parametrize("schema", list(EXAMPLES))
def test_other_text_is_not_parsed(schema, text):
    with pytest.raises(RowError, match="pass text that render"):
        schema_for(schema).parse(text)
