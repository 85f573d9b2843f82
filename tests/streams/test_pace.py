"""When rows are due: at a rate, or as far apart as their own times are, whatever says the time."""

import datetime as dt
import itertools
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from workbench.errors import RowError
from workbench.streams import pace
from workbench.streams.pace import Pace, time_of

MINUTE = dt.timedelta(minutes=1)
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def pauses(clock, speed, rows):
    paced, found = Pace(None, speed), []
    for row in rows:
        found.append(paced.seconds_to([row]))
        clock.now += found[-1]
    return [pytest.approx(pause, abs=1e-6) for pause in found]


@pytest.mark.parametrize("start", [dt.datetime(2026, 3, 8, 6, 58), dt.datetime(2026, 11, 1, 4, 58)])
def test_a_minute_is_a_minute_where_the_clocks_change(clock, start):
    utc = [start.replace(tzinfo=dt.UTC) + 15 * n * MINUTE for n in range(12)]
    there = [{"time": moment.astimezone(NEW_YORK)} for moment in utc]
    assert pauses(clock, "900x", there) == [0, *[1] * 11]
    assert pauses(clock, "900x", [{"ts": moment.timestamp()} for moment in utc]) == [0, *[1] * 11]


def test_a_date_and_a_time_of_day_are_one_time(clock):
    days = [(dt.date(2026, 1, 5), dt.time(22)), (dt.date(2026, 1, 5), dt.time(23)),
            (dt.date(2026, 1, 6), dt.time(0))]  # fmt: skip
    for kind in (lambda value: value, str):
        rows = [{"date": kind(day), "time": kind(clock), "v": 1} for day, clock in days]
        assert pauses(clock, "3600x", rows) == [0, 1, 1]
    frame = pd.DataFrame(days, columns=["date", "time"])
    frame["date"] = pd.to_datetime(frame["date"])  # midnights
    for rows in (frame.to_dict("records"), frame.astype(str).to_dict("records")):
        assert pauses(clock, "3600x", rows) == [0, 1, 1]
    assert time_of({"time": "1712120100"}) == time_of({"time": np.int64(1712120100)})
    assert time_of({"time": "1712120100"}).year == 2024 == time_of({"time": "20240403"}).year
    (named,) = pd.DataFrame({"time": [dt.datetime(2026, 1, 5)]}).itertuples(index=False)
    assert time_of(named) == dt.datetime(2026, 1, 5)
    assert time_of({"date": "2026-01-05"}) == dt.datetime(2026, 1, 5)
    assert time_of({"time": "2026-01-05 09:30"}) == dt.datetime(2026, 1, 5, 9, 30)


def test_rows_out_of_order_take_no_longer_than_what_they_span(clock):
    seconds = [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
    assert pauses(clock, "1x", [{"ts": n} for n in seconds]) == [0, 5, 0, 1, 0, 1, 0, 1, 0, 1]


def test_a_rate_may_be_numpys(clock):
    for rate in (np.int64(10), np.float32(10)):
        clock.now += 1
        assert Pace(rate, None).seconds_to([{}]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"T": 39.5}, "has no column"),
        ({"time": "soon"}, "has no column"),
        ({"time": pd.NaT}, "has no column"),
        ({"time": "09:30"}, "has no column"),
        ({"ts": 1_767_600_000_000}, "divide milliseconds by 1,000"),
        ("a text", "has no column"),
    ],
)
def test_a_row_without_a_time_says_so(row, said):
    with pytest.raises(RowError, match=said):
        time_of(row)


def test_times_with_and_without_a_zone_do_not_mix():
    paced = Pace(None, "1x")
    paced.seconds_to([{"time": dt.datetime(2026, 1, 5)}])
    with pytest.raises(RowError, match="one has a time zone and the other has none"):
        paced.seconds_to([{"time": dt.datetime(2026, 1, 5, tzinfo=dt.UTC)}])


def test_a_rate_is_kept_whatever_a_row_costs_and_a_delay_is_not_made_up_for(clock):
    paced = Pace(10, None)
    sent = []
    for cost in (0.0, 0.04, 0.09, 0.5, 0.0, 0.0):
        clock.now += paced.seconds_to(["row"])
        sent.append(clock.now)
        clock.now += cost
    gaps = [round(after - before, 6) for before, after in itertools.pairwise(sent)]
    assert gaps == [0.1, 0.1, 0.1, 0.5, 0.1] and sent[0] == pytest.approx(100.1)


@pytest.mark.parametrize(
    ("rate", "speed", "said"),
    [
        (0, None, "rate=0: expected rows per second above 0"),
        (True, None, "rate=True: expected rows"),
        ("fast", None, "rate='fast': expected rows"),
        (None, 60, "speed=60: expected a factor"),
        (None, "0x", "speed='0x': expected a factor"),
        (2, "60x", "expected one of them"),
    ],
)
def test_a_pace_that_is_none_says_so(rate, speed, said):
    with pytest.raises(RowError, match=said):
        Pace(rate, speed)
