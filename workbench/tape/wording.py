"""How the questions are worded: ``{x}`` is a column, of something where rows have names.

``{x}`` reads ``close``, ``close of BTC``, ``BTC close``; ``{k}`` is a number, ``{rows}`` what the
stream's rows are called, ``{s}`` whose they are, ``{n}`` a value, ``{kind}`` what it is one of.
"""

from __future__ import annotations

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "ohlcv": {
        "o": ("open", "opening price"), "h": ("high",), "l": ("low",),
        "c": ("close", "close", "close", "price", "closing price"), "v": ("volume",),
    },
    "iot": {"value": ("value", "reading")},
    "vitals": {
        "hr": ("heart rate", "pulse", "hr"), "sys": ("systolic pressure", "systolic", "sys"),
        "dia": ("diastolic pressure", "diastolic", "dia"),
        "spo2": ("SpO2", "oxygen saturation"), "temp": ("temperature", "temp"),
    },
    "spatial": {"x": ("x",), "y": ("y",), "speed": ("speed", "velocity")},
    "event": {
        "level": ("level",), "source": ("source",), "message": ("message",), "time": ("time",),
    },
    "rows": {},
}  # fmt: skip
ROWS = {
    "ohlcv": ("bars", "bars", "rows"), "iot": ("readings", "rows"), "vitals": ("readings", "rows"),
    "event": ("events", "rows", "lines"), "spatial": ("positions", "rows"), "rows": ("rows",),
}  # fmt: skip
KINDS = {
    "ohlcv": ("symbol",), "iot": ("sensor",), "vitals": ("patient",),
    "spatial": ("one", "id"), "event": ("source",),
}  # fmt: skip

LAST = (
    "What was the last {x}?",
    "What is the last {x}?",
    "What was the latest {x}?",
    "What is the latest {x}?",
    "What is the most recent {x}?",
    "What is the current {x}?",
    "What is the {x} now?",
    "Give the last {x}.",
    "Tell me the last {x}.",
    "Last {x}?",
    "Latest {x}?",
    "last {x}",
    "{x}?",
    "{x}",
)
LAST_ROW = (
    "What is the {x} of the last {row}?",
    "What was the {x} of the last {row}?",
    "{x} of the last {row}?",
)
LAST_VALUE = (
    "What was the last value of {x}?",
    "What is the last value of {x}?",
    "What is {x} now?",
    "What is {x}?",
)
BAR = (
    "Was the last bar up or down?",
    "Is the last bar up or down?",
    "Did the last bar close up or down?",
    "Did the last bar go up or down?",
    "Last bar up or down?",
)
BAR_OF = (
    "Was the last bar of {s} up or down?",
    "Is the last {s} bar up or down?",
    "Did {s} close up or down?",
    "Last {s} bar up or down?",
)
TREND = (
    "Is the {x} {a} or {b} over the last {k} {rows}?",
    "Is {x} {a} or {b} over the last {k} {rows}?",
    "{a} or {b} over the last {k} {rows} for {x}?",
    "Over the last {k} {rows}, is the {x} {a} or {b}?",
    "Compared with {k} {rows} ago, is the {x} {a} or {b}?",
    "Is the {x} {a} or {b} than {k} {rows} ago?",
)
TREND_BARS = (
    "Is the trend {a} or {b} over the last {k} {rows}?",
    "{a} or {b} over the last {k} {rows}?",
    "Are we {a} or {b} over the last {k} {rows}?",
    "Over the last {k} {rows}, is the trend {a} or {b}?",
    "Is the trend of the last {k} {rows} {a} or {b}?",
    "Is the market {a} or {b} over the last {k} {rows}?",
)
TREND_DEFAULT = (
    "Is the trend up or down?",
    "Is the trend up or down now?",
    "Is the market up or down?",
    "Is the price going up or down?",
    "Trend up or down?",
    "Up or down?",
)
DIRECTIONS = (("up", "down"), ("up", "down"), ("rising", "falling"), ("higher", "lower"))
CHANGE = (
    "What was the move over the last {k} {rows}?",
    "What is the move over the last {k} {rows}?",
    "How far did the close move over the last {k} {rows}?",
    "How much did the price change over the last {k} {rows}?",
    "Move over the last {k} {rows}?",
)
LARGEST = (
    "What was the highest {x} of the last {k} {rows}?",
    "What is the largest {x} of the last {k} {rows}?",
    "What is the highest {x} in the last {k} {rows}?",
    "What is the maximum {x} over the last {k} {rows}?",
    "Highest {x} of the last {k} {rows}?",
)
SMALLEST = (
    "What was the lowest {x} of the last {k} {rows}?",
    "What is the smallest {x} of the last {k} {rows}?",
    "What is the lowest {x} in the last {k} {rows}?",
    "What is the minimum {x} over the last {k} {rows}?",
    "Lowest {x} of the last {k} {rows}?",
)
LEVEL = (
    "Is the last {x} above or below {n}?",
    "Is the {x} above or below {n}?",
    "Was the last {x} above or below {n}?",
    "Is {x} above or below {n}?",
    "Is the {x} now above or below {n}?",
    "{x} above or below {n}?",
)
LEVEL_BARS = ("Above or below {n}?", "Is the market above or below {n}?")
LEVEL_IS: dict[str, tuple[str, ...]] = {
    "above": (
        "Is the last {x} above {n}?",
        "Is the {x} above {n}?",
        "Is {x} above {n}?",
        "Is the {x} higher than {n}?",
        "Was the last {x} over {n}?",
        "Is the last {x} greater than {n}?",
    ),
    "below": (
        "Is the last {x} below {n}?",
        "Is the {x} below {n}?",
        "Is {x} below {n}?",
        "Is the {x} lower than {n}?",
        "Was the last {x} under {n}?",
        "Is the last {x} less than {n}?",
    ),
}
LEVEL_TURNED = ("Is {n} above or below the last {x}?", "Is {n} above or below the {x}?")
WHICH_LARGER = (
    *("Which is larger, {a} or {b}?", "Which is larger, {a} or {b}?"),
    "Which is larger: {a} or {b}?",
    "Which is higher, {a} or {b}?",
    "What is larger, {a} or {b}?",
    "Which is greater, {a} or {b}?",
    "The larger of {a} and {b}?",
)
WHICH_SMALLER = (
    "Which is smaller, {a} or {b}?",
    "Which is lower, {a} or {b}?",
    "What is smaller, {a} or {b}?",
    "The smaller of {a} and {b}?",
)
COMPARE = ("Is {x} above or below {n}?", "{x} above or below {n}?", "{x}: above or below {n}?")
COMPARE_IS: dict[str, tuple[str, ...]] = {
    "above": ("Is {x} above {n}?", "Is {x} larger than {n}?", "Is {x} greater than {n}?"),
    "below": ("Is {x} below {n}?", "Is {x} smaller than {n}?", "Is {x} less than {n}?"),
}
AGO = (
    "What was the {x} {k} {rows} ago?",
    "What was {x} {k} {rows} ago?",
    "{x} {k} {rows} ago?",
    "Give the {x} of {k} {rows} ago.",
    "{k} {rows} ago, what was the {x}?",
)
INSIDE = (
    "Is {s} inside its limits?",
    "Is {s} within its limits?",
    "Is the last reading of {s} inside its limits?",
    "Is {s} within limits?",
    "{s} inside its limits?",
)
INSIDE_LAST = (
    "Is the last reading inside its limits?",
    "Is the reading inside its limits?",
    "Is the last reading within limits?",
    "Was the last reading inside the limits?",
)
STATUS = (
    "Is {s} ok, low or high?",
    "What is the status of {s}?",
    "Status of {s}?",
    "Is the last reading of {s} ok, low or high?",
)
STATUS_LAST = ("Is the last reading ok, low or high?", "What is the status of the last reading?")
WHO_LAST = (
    "Which {kind} came last?",
    "Which {kind} reported last?",
    "Which {kind} was the last one?",
    "What {kind} is the last row from?",
    "Last {kind}?",
)
WHO_MOVED = (
    "Which symbol moved most?",
    "Which symbol moved the most in its last bar?",
    "Which symbol had the largest move?",
    "Largest move of a symbol?",
)
WHO_FASTEST = (
    "Which one is fastest?",
    "Which one is the fastest now?",
    "Who is fastest?",
    "Which id has the highest speed?",
)
COUNT = (
    "How many of the last {k} {rows} {did}?",
    "Of the last {k} {rows}, how many {did}?",
    "In the last {k} {rows}, how many {did}?",
    "Count of the last {k} {rows} that {did}?",
)
HAPPENED_LEVEL = (
    "Has {an} {n} occurred in the last {k} {rows}?",
    "Was there {an} {n} in the last {k} {rows}?",
    "Any {n} in the last {k} {rows}?",
    "Did {an} {n} happen in the last {k} {rows}?",
    "Has there been {an} {n} within the last {k} {rows}?",
)
HAPPENED_TEXT = (
    "Has '{n}' occurred in the last {k} {rows}?",
    "Was there '{n}' in the last {k} {rows}?",
    "Any '{n}' in the last {k} {rows}?",
)
HAPPENED_EVER = (
    "Has {an} {n} occurred?",
    "Has there been {an} {n}?",
    "Any {n} so far?",
    "Was there any {n} at all?",
)
ABSENT = "not in the data"
