"""When a stream's next rows are due: so many a second, or as far apart as their own times are."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from workbench.errors import RowError
from workbench.streams.frames import as_dict
from workbench.streams.schema import TIME_NAMES, is_time

_Moment = dt.datetime | dt.date | dt.time


class Pace:
    """When ticks are due. Where sending takes longer than that, it never catches up in a burst."""

    def __init__(self, rate: float | None, speed: str | None) -> None:
        """Neither: everything is due at once.

        Args:
            rate: rows per second.
            speed: a factor on the rows' own time, such as "60x".

        Raises:
            RowError: they are no such thing, or both are given.
        """
        if rate is not None and not (
            isinstance(rate, Real) and not isinstance(rate, bool) and rate > 0
        ):
            msg = f"rate={rate!r}: expected rows per second above 0, or None for as fast as it goes"
            raise RowError(msg)
        if rate is not None and speed is not None:
            msg = f"rate={rate} and speed={speed!r}: expected one of them"
            raise RowError(msg)
        self._rate = None if rate is None else float(rate)
        self._factor = _factor(speed)
        self._due = time.monotonic()
        self._before: dt.datetime | None = None

    def seconds_to(self, rows: Sequence[Any]) -> float:
        """From now until these rows are due, which come next.

        Raises:
            RowError: the last of them has no time to go by.
        """
        if self._rate is not None:
            pause = len(rows) / self._rate
        elif self._factor is not None:
            moment = time_of(rows[-1])
            pause = 0.0
            if self._before is not None:
                pause = max(0.0, _passed(self._before, moment) / self._factor)
            # Rows out of order cost what lies between the latest ones, and only once.
            self._before = moment if self._before is None else max(self._before, moment)
        else:
            return 0.0
        now = time.monotonic()
        self._due = max(self._due + pause, now)
        return self._due - now


def time_of(row: Any) -> dt.datetime:
    """The time of a row, in UTC where it says of which zone it is; a day begins at midnight.

    A date in one column, or a midnight, and a time of day in another are one time. Numbers are
    seconds since 1970, texts of nine digits and more too.

    Raises:
        RowError: it has none.
    """
    found: list[_Moment] = []
    row = as_dict(row)
    for column, value in row.items() if isinstance(row, Mapping) else ():
        if is_time(column):
            moment = _read(row, value)
            found += [] if moment is None else [moment]
    clock = next((moment for moment in found if isinstance(moment, dt.time)), dt.time())
    days = [moment for moment in found if not isinstance(moment, dt.time)]
    if days:
        day = next((moment for moment in days if isinstance(moment, dt.datetime)), days[0])
        if not isinstance(day, dt.datetime):
            day = dt.datetime.combine(day, clock)
        elif day.time() == dt.time():  # as pandas has a day
            day = dt.datetime.combine(day, clock, day.tzinfo)
        return day if day.tzinfo is None else day.astimezone(dt.UTC)
    msg = (
        f"speed= replays by the rows' own time, and {row!r} has no column "
        f"{'/'.join(sorted(TIME_NAMES))} with one; use rate= (rows per second)"
    )
    raise RowError(msg)


def _read(row: Any, value: Any) -> _Moment | None:
    """What a value says of time, if anything."""
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value if value == value else None  # pandas' NaT is none
    if isinstance(value, str) and re.fullmatch(r"\d{9,}(\.\d+)?", value):
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return dt.datetime.fromtimestamp(value, dt.UTC)
        except (ValueError, OverflowError, OSError):
            msg = (
                f"speed= takes a number for seconds since 1970, and {value!r} of {row!r} is no "
                "such time; divide milliseconds by 1,000, or use rate= (rows per second)"
            )
            raise RowError(msg) from None
    for kind in (dt.date, dt.datetime, dt.time):
        try:
            return kind.fromisoformat(str(value))
        except ValueError:
            continue
    return None


def _passed(before: dt.datetime, now: dt.datetime) -> float:
    """Seconds between two."""
    if (before.tzinfo is None) != (now.tzinfo is None):
        msg = f"speed= replays by the rows' own time; of {before} and {now} one has a time zone"
        raise RowError(f"{msg} and the other has none; give both one, or use rate=")
    return (now - before).total_seconds()


def _factor(speed: str | None) -> float | None:
    if speed is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*)x", speed) if isinstance(speed, str) else None
    if not found or not float(found[1]) > 0:
        msg = f"speed={speed!r}: expected a factor on the rows' own time, such as '60x'"
        raise RowError(msg)
    return float(found[1])
