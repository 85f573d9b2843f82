"""Rows of sensors, bedside monitors, logs and moving things; `render` has the layouts."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, ClassVar

from workbench.streams.schema import (
    Known,
    Row,
    is_missing,
    name_word,
    number,
    unreadable,
    wrong,
)
from workbench.streams.texts import (
    count_text,
    message_text,
    price_text,
    read_number,
    read_word,
    word_text,
)

_WORD = r'(?:"(?:[^"\\]|\\.)*"|[^\s"]+)'


class Sensors(Known):
    """A sensor's value between its limits; a value of None or NaN is a fault."""

    name = "iot"
    names: ClassVar = {
        **dict.fromkeys(("sensor", "sensor_id", "id", "device", "name"), "sensor"),
        **dict.fromkeys(("value", "reading", "v"), "value"),
        **dict.fromkeys(("low", "lo", "min", "lower", "low_limit"), "low"),
        **dict.fromkeys(("high", "hi", "max", "upper", "high_limit"), "high"),
    }
    order = ("sensor", "value", "low", "high")
    needed = order
    spoken = "sensor, value, low, high, time"
    drops_time = True
    _line_form = re.compile(
        rf"(?:ok|low|high|fault) (?P<sensor>{_WORD}) v(?P<value>\S+) lo(?P<low>\S+) hi(?P<high>\S+)"
    )

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        sensor = named["sensor"]
        if not isinstance(sensor, str):
            sensor = str(number(index, "sensor", sensor))
        low, high = (price_text(number(index, side, named[side])) for side in ("low", "high"))
        value = named["value"]
        shown = "?"
        if not is_missing(value):
            shown = price_text(number(index, "value", value))
        mark = limit_mark(shown, low, high)
        return f"{mark} {name_word(index, 'sensor', sensor, 's3')} v{shown} lo{low} hi{high}"

    def _row(self, index: int, line: str) -> Row:
        found = self._line_form.fullmatch(line)
        if not found:
            raise unreadable(index, line, "ok s3 v21.500 lo18.000 hi24.000")
        shown = found.groupdict()
        value = None if shown["value"] == "?" else read_number(shown["value"])
        sides = {side: read_number(shown[side]) for side in ("low", "high")}
        return {"sensor": read_word(shown["sensor"]), "value": value} | sides


def limit_mark(value: str, low: str, high: str) -> str:
    """Where a printed value lies: ``low``, ``ok`` (limits included), ``high``; ``fault``: none."""
    if value == "?":
        return "fault"
    return "low" if float(value) < float(low) else "high" if float(value) > float(high) else "ok"


class Vitals(Known):
    """A bedside monitor's numbers, any of five, with or without whose they are."""

    name = "vitals"
    names: ClassVar = {
        **dict.fromkeys(("patient", "patient_id", "bed", "id", "name"), "patient"),
        **dict.fromkeys(("hr", "heart_rate", "heartrate", "pulse"), "hr"),
        **dict.fromkeys(("sys", "systolic", "sbp", "bp_sys"), "sys"),
        **dict.fromkeys(("dia", "diastolic", "dbp", "bp_dia"), "dia"),
        **dict.fromkeys(("spo2", "oxygen", "saturation"), "spo2"),
        **dict.fromkeys(("temp", "temperature"), "temp"),
    }
    order = ("patient", "hr", "sys", "dia", "spo2", "temp")
    needed: ClassVar = ()
    spoken = "patient, hr, sys, dia, spo2, temp, time"
    drops_time = True
    _line_form = re.compile(
        rf"(?:(?P<patient>(?!hr|sys|dia|ox|temp|@){_WORD})|@(?P<at>{_WORD}))?"
        + "".join(
            rf"(?:(?:^| ){short}(?P<{column}>\S+))?"
            for column, short in zip(
                ("hr", "sys", "dia", "spo2", "temp"),
                ("hr", "sys", "dia", "ox", "temp"),
                strict=True,
            )
        )
    )

    def _order(self, index: int, named: Row) -> tuple[str, ...]:
        return super()._order(index, {} if list(named) == ["patient"] else named)

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        words = []
        for column in columns:
            value = named[column]
            if column == "patient":
                value = value if isinstance(value, str) else str(number(index, column, value))
                word = name_word(index, column, value, "bed4")
                plain = re.match("hr|sys|dia|ox|temp|@", word) is None
                words.append(word if plain else f"@{word}")
            else:
                short = "ox" if column == "spo2" else column
                words.append(short + count_text(number(index, column, value)))
        return " ".join(words)

    def _row(self, index: int, line: str) -> Row:
        found = self._line_form.fullmatch(line)
        if not found or line.startswith(" ") or not any(found[c] for c in self.order[1:]):
            raise unreadable(index, line, "hr72 sys120 dia80 ox98 temp36.800")
        shown = found.groupdict()
        whose = shown["patient"] or shown.pop("at")
        row: Row = {} if whose is None else {"patient": read_word(whose)}
        for column in self.order[1:]:
            if shown[column] is not None:
                row[column] = read_number(shown[column])
        return row


class Events(Known):
    """Log lines: level, source, time of day, message."""

    name = "event"
    names: ClassVar = {
        **dict.fromkeys(("time", "timestamp", "ts", "datetime", "date", "t"), "time"),
        **dict.fromkeys(("level", "severity"), "level"),
        **dict.fromkeys(("source", "service", "host", "logger", "component"), "source"),
        **dict.fromkeys(("message", "msg", "text", "event"), "message"),
    }
    order = ("level", "source", "time", "message")
    needed = ("level", "source", "message")
    spoken = "time, level, source, message"
    _line_form = re.compile(
        rf"(?P<level>{_WORD}) (?P<source>{_WORD}) (?:@(?P<time>{_WORD}) )?: (?P<message>.+)"
    )

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        words = []
        for column in ("level", "source"):
            words.append(name_word(index, column, named[column], "ERROR"))
        if "time" in columns:
            words.append("@" + _clock(index, named["time"]))
        message = named["message"]
        if not isinstance(message, str):
            raise wrong(index, "message", "text", message)
        return f"{' '.join(words)} : {message_text(message)}"

    def _row(self, index: int, line: str) -> Row:
        found = self._line_form.fullmatch(line)
        if not found:
            raise unreadable(index, line, "ERROR db @09:41:05 : connection lost")
        shown = found.groupdict()
        row: Row = {column: read_word(shown[column]) for column in ("level", "source")}
        if shown["time"] is not None:
            row["time"] = read_number(shown["time"])
        return row | {"message": read_word(shown["message"])}


def _clock(index: int, value: Any) -> str:
    """A time as one word: times of day to the second, texts and numbers as they are."""
    if is_missing(value):  # NaT too, which is a datetime
        raise wrong(index, "time", "a time", value)
    if isinstance(value, dt.datetime | dt.time):
        return value.strftime("%H:%M:%S")
    if isinstance(value, dt.date):
        return value.isoformat()
    return word_text(value) if isinstance(value, str) else count_text(number(index, "time", value))


class Moving(Known):
    """Where something is, and how fast it goes."""

    name = "spatial"
    names: ClassVar = {
        **dict.fromkeys(("id", "name", "object", "object_id", "vehicle"), "id"),
        "x": "x",
        "y": "y",
        **dict.fromkeys(("speed", "velocity", "v"), "speed"),
    }
    order = ("id", "x", "y", "speed")
    needed = order
    spoken = "id, x, y, speed, time"
    drops_time = True
    _line_form = re.compile(rf"(?P<id>{_WORD}) x(?P<x>\S+) y(?P<y>\S+) v(?P<speed>\S+)")

    def _line(self, index: int, columns: tuple[str, ...], named: Row) -> str:
        x, y, speed = (price_text(number(index, c, named[c])) for c in ("x", "y", "speed"))
        return f"{name_word(index, 'id', named['id'], 'truck7')} x{x} y{y} v{speed}"

    def _row(self, index: int, line: str) -> Row:
        found = self._line_form.fullmatch(line)
        if not found:
            raise unreadable(index, line, "truck7 x12.500 y-3.2000 v4.1000")
        shown = found.groupdict()
        numbers = {column: read_number(shown[column]) for column in ("x", "y", "speed")}
        return {"id": read_word(shown["id"])} | numbers
