"""Names and messages that no list holds: people call their sensors, symbols and columns anything.

A model that has only read names off a list knows these and copies no others. So a share of the
streams it trains on is told in names drawn here, and the score has streams of its own for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from workbench.streams.schema import Row
from workbench.tape.generators import ENTITY, Stream, pick, read_stream

CONSONANTS = "bcdfghjklmnprstvwxz"
VOWELS = "aeiouy"
FOREIGN = "äöüéèñåøßç"
JOINTS = ("_", "_", "-", "-", ".", "", "/", ":", " ", "#")
NOT_NAMES = ("time", "date")  # columns that are called so whatever the stream


def draw_name(rng: np.random.Generator) -> str:
    """One name: words, letters and digits, in the manners of tags, tickers and paths."""
    draw = rng.random()
    if draw < 0.08:
        return "".join(pick(rng, "0123456789abcdef") for _ in range(int(rng.integers(4, 9))))
    if draw < 0.2:  # tickers, flights, stations: capitals, then digits or a suffix
        letters = "".join(chr(c) for c in rng.integers(65, 91, rng.integers(1, 6)))
        number = str(rng.integers(1, 10 ** int(rng.integers(1, 5))))
        return letters + pick(rng, ("", number, f"-{number}", f".{letters[:1]}", "=F"))
    words = [draw_word(rng) for _ in range(pick(rng, (1, 1, 2, 2, 3)))]
    case = pick(rng, (str.lower, str.lower, str.upper, str.capitalize))
    joint = pick(rng, JOINTS)
    name = joint.join(case(word) for word in words)
    if rng.random() < 0.45:
        name += pick(rng, ("", joint)) + str(rng.integers(0, 10 ** int(rng.integers(1, 4))))
    if rng.random() < 0.1:
        name += pick(rng, ("a", "b", "_x", "_ms", "%", "A", "°C"))
    return name.strip()


def draw_word(rng: np.random.Generator) -> str:
    """A word that can be said, or a few letters; rarely with one of another language."""
    if rng.random() < 0.3:
        return "".join(chr(c) for c in rng.integers(97, 123, rng.integers(1, 6)))
    word = "".join(
        pick(rng, CONSONANTS) + pick(rng, VOWELS) + pick(rng, ("", "", pick(rng, CONSONANTS)))
        for _ in range(pick(rng, (1, 2, 2, 3)))
    )
    if rng.random() < 0.06:
        at = int(rng.integers(len(word)))
        word = word[:at] + pick(rng, FOREIGN) + word[at + 1 :]
    return word


def draw_message(rng: np.random.Generator) -> str:
    """A line of a log: words, and sometimes a number, a path, a setting or a sign between them."""
    words = [draw_word(rng) for _ in range(pick(rng, (1, 2, 2, 3, 4)))]
    if rng.random() < 0.35:
        odd = (
            str(rng.integers(1, 10_000)), f"/{words[0]}/{draw_word(rng)}", f"{words[-1]}=1",
            f"{words[0]}()", f"0x{rng.integers(16, 4096):x}", f"{words[-1]}:",
        )  # fmt: skip
        words.insert(int(rng.integers(len(words) + 1)), pick(rng, odd))
    text = " ".join(words)
    return text.capitalize() if rng.random() < 0.3 else text


def retold(rng: np.random.Generator, stream: Stream) -> Stream:
    """The same stream with other names: of whom it is about, of sources, messages and columns."""
    rows = stream.rows
    entity = ENTITY.get(stream.schema)
    if entity is not None and entity in rows[0]:
        rows = _renamed(rows, entity, _drawn(rng, [row[entity] for row in rows], draw_name))
    elif stream.schema == "event":
        rows = _renamed(rows, "source", _drawn(rng, [row["source"] for row in rows], draw_name))
        bare = [row["message"].rstrip("0123456789").rstrip() for row in rows]
        told = _drawn(rng, bare, draw_message)
        rows = [
            row | {"message": told[old] + row["message"][len(old) :]}
            for row, old in zip(rows, bare, strict=True)
        ]
    elif stream.schema == "rows":
        columns = _drawn(rng, [c for c in rows[0] if c not in NOT_NAMES], draw_name)
        rows = [{columns.get(c, c): value for c, value in row.items()} for row in rows]
    else:
        return stream
    made = read_stream(stream.schema, rows, stream.prompt)
    return replace(made, retold=True)


def _drawn(
    rng: np.random.Generator, old: Sequence[str], draw: Callable[[np.random.Generator], str]
) -> dict[str, str]:
    """A name of its own for each of the old ones."""
    new: dict[str, str] = {}
    taken = set(NOT_NAMES)
    for name in dict.fromkeys(old):
        while not (told := draw(rng)) or told.lower() in taken:
            pass
        taken.add(told.lower())
        new[name] = told
    return new


def _renamed(rows: Sequence[Row], column: str, names: dict[str, str]) -> list[Row]:
    return [row | {column: names[row[column]]} for row in rows]
