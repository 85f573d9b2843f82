"""The cell map: the pool drawn, who holds which cells, and what is shared, reserved or free."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from workbench.engine.holdings import Holding
from workbench.errors import EngineClosed
from workbench.events import Event
from workbench.notebook.panel import Panel, script, static
from workbench.notebook.view_model import session_colours

if TYPE_CHECKING:
    import polars as pl

    from workbench.front import Engine

# What a cell is shown as where several hold it: the first of these.
KINDS = ("session", "next window", "old window", "prompt", "question", "flash")
SCRATCH = ("question", "flash")  # gone in a moment: reading a session's cells is not sharing them
NAMELESS = {"prompt": "kept prompt", "question": "stateless request", "flash": "flash"}
REFRESH_S = 0.5
POLL_S = 5.0  # without any event
MOST_PIECES = 400  # more would be less than a pixel each


@dataclass(frozen=True)
class Piece:
    """Consecutive cells with the same holders.

    Attributes:
        start, length: which cells.
        state: "filled" (some holder has computed them), "reserved" or "free".
        kind: of the holding they are shown as; "free" where there is none.
        holders: the names of all who hold them, sessions in the order they were opened.
        shared: how many hold them for good; 1 where only questions do, 0 where they are free.
        readers: how many questions and flash evaluations hold them now.
    """

    start: int
    length: int
    state: str
    kind: str
    holders: tuple[str, ...]
    shared: int
    readers: int

    @property
    def end(self) -> int:
        """The first cell after it."""
        return self.start + self.length


def pieces(holdings: Iterable[Holding], num_cells: int) -> list[Piece]:
    """The whole pool, from cell 0 to the last, as the fewest pieces; one sweep over the ends."""
    held = [holding for holding in holdings if holding.length]
    ranks: dict[str, int] = {}
    for holding in held:
        ranks.setdefault(_name(holding), len(ranks))
    begins: dict[int, list[int]] = defaultdict(list)
    ends: dict[int, list[int]] = defaultdict(list)
    edges = {0, num_cells}
    for index, holding in enumerate(held):
        begins[holding.start].append(index)
        ends[holding.start + holding.length].append(index)
        edges |= {holding.start, holding.start + holding.filled, holding.start + holding.length}
    out: list[Piece] = []
    now: dict[int, Holding] = {}
    for start, end in itertools.pairwise(sorted(edges)):
        for index in ends.get(start, ()):
            del now[index]
        for index in begins.get(start, ()):
            now[index] = held[index]
        piece = _piece(start, end - start, list(now.values()), ranks)
        if out and _alike(out[-1], piece):
            piece = _joined(out.pop(), piece)
        out.append(piece)
    return out


def pieces_frame(parts: Iterable[Piece]) -> pl.DataFrame:
    """One row per piece: ``start length state holders kind shared readers`` (see `Piece`)."""
    import polars as pl

    schema: dict[str, Any] = {
        "start": pl.Int64, "length": pl.Int64, "state": pl.String,
        "holders": pl.List(pl.String), "kind": pl.String, "shared": pl.Int64,
        "readers": pl.Int64,
    }  # fmt: skip
    rows = list(parts)
    columns = {name: [getattr(piece, name) for piece in rows] for name in schema}
    columns["holders"] = [list(piece.holders) for piece in rows]
    return pl.DataFrame(columns, schema=schema)


def cells_frame(engine: Engine) -> pl.DataFrame:
    """The pool at this moment, one row per run of cells with the same holders.

    Columns: ``start``, ``length``; ``state`` "filled", "reserved" or "free"; ``holders``, the names
    of who holds them; ``kind`` "session", "next window", "old window", "prompt" (kept of an ended
    request), "question", "flash" or "free"; ``shared``, how many hold them for good; ``readers``,
    how many questions and flash evaluations read them now.
    """
    return pieces_frame(pieces(engine.holdings(), engine.num_cells))


def saved_cells(parts: Iterable[Piece]) -> int:
    """Cells more that would be taken if nothing were shared."""
    return sum((piece.shared - 1) * piece.length for piece in parts if piece.shared > 1)


def coarser(parts: Sequence[Piece], most: int = MOST_PIECES) -> list[Piece]:
    """At most so many: neighbours too short to be seen become one that looks like its longest."""
    out, least = list(parts), 2
    while len(out) > most:
        out, least = _absorb(parts, least), least * 2
    return out


def line_length(num_cells: int) -> int:
    """How many cells a line of the map has: 4, 8 or up to 16 lines, of round lengths."""
    lines = 4 if num_cells < 8_192 else 8 if num_cells <= 131_072 else 16
    length = -(-num_cells // lines)
    step = 1 << max(0, length.bit_length() - 3)
    return -(-length // step) * step


def map_state(
    parts: Sequence[Piece], colours: dict[str, int], capacities: dict[str, int]
) -> dict[str, Any]:
    """What the browser draws.

    Args:
        parts: the whole pool.
        colours: each session's place among the colours.
        capacities: each session's budget, in cells.
    """
    num_cells = parts[-1].end if parts else 0
    counts: dict[str, int] = defaultdict(int)
    filled: dict[str, int] = dict.fromkeys(colours, 0)
    for piece in parts:
        counts[_label(piece)] += piece.length
        if piece.kind not in SCRATCH and piece.state == "filled":
            for name in piece.holders:
                filled[name] = filled.get(name, 0) + piece.length
    names = list(dict.fromkeys([*colours, *(name for p in parts for name in p.holders)]))
    places = {name: index for index, name in enumerate(names)}
    return {
        "cells": num_cells,
        "line": line_length(num_cells),
        "free": counts["free"],
        "saved": saved_cells(parts),
        "counts": {label: counts[label] for label in LABELS if counts[label] or label in ALWAYS},
        "holders": [
            [name, colours.get(name, -1), filled.get(name, 0), capacities.get(name, 0)]
            for name in names
        ],
        "pieces": [
            [p.start, p.length, p.state, p.kind, [places[name] for name in p.holders], p.shared,
             p.readers]
            for p in coarser(parts)
        ],
    }  # fmt: skip


LABELS = ("filled", "reserved", "shared", "question", "flash", "next window", "old window",
          "prompt", "free")  # fmt: skip
ALWAYS = ("filled", "reserved", "shared", "question", "flash", "free")


class CellMapPanel(Panel):
    """The map in the browser."""

    _esm = script("cell_map.js")
    _css = static("cell_map.css")


class CellMapPart:
    """The part of a dashboard that shows the pool."""

    name = "cells"

    def __init__(self) -> None:
        """Empty until it is drawn."""
        self.panel = CellMapPanel()
        self.widgets: list[widgets.Widget] = [self.panel]
        self._news = True
        self._asked_at = 0.0
        self._answer: list[Sequence[Holding]] | None = None

    def take(self, event: Event) -> None:
        """Something happened: look again."""
        self._news = True

    def draw(self, engine: Engine, now: float) -> None:
        """Show who holds what, if anything has happened since."""
        if self._answer:
            self.panel.show(self._state(engine, self._answer.pop()))
            self._answer = None
        due = now - self._asked_at
        if self._answer is None and (due >= POLL_S or (self._news and due >= REFRESH_S)):
            self._news, self._asked_at = False, now
            self._ask(engine)

    def act(self, engine: Engine) -> None:
        """Nothing can be asked for."""

    def _ask(self, engine: Engine) -> None:
        """Have the engine thread look between two steps, without waiting for it.

        A step may take a second, and the rest of the dashboard goes on meanwhile.
        """
        answer: list[Sequence[Holding]] = []

        def look() -> None:
            if not engine.closed:
                answer.append(engine.holdings())

        try:
            engine.post(look)
        except EngineClosed:
            return
        self._answer = answer

    def _state(self, engine: Engine, holdings: Sequence[Holding]) -> dict[str, Any]:
        capacities = {name: session.budget for name, session in engine.sessions.items()}
        return map_state(
            pieces(holdings, engine.num_cells), session_colours(engine), capacities
        )


def _name(holding: Holding) -> str:
    return holding.owner or NAMELESS.get(holding.kind, holding.kind)


def _piece(start: int, length: int, held: list[Holding], ranks: dict[str, int]) -> Piece:
    if not held:
        return Piece(start, length, "free", "free", (), 0, 0)
    readers = sum(holding.kind in SCRATCH for holding in held)
    return Piece(
        start,
        length,
        "filled" if any(start < h.start + h.filled for h in held) else "reserved",
        min((holding.kind for holding in held), key=KINDS.index),
        tuple(sorted({_name(holding) for holding in held}, key=ranks.__getitem__)),
        max(1, len(held) - readers),
        readers,
    )


def _alike(one: Piece, other: Piece) -> bool:
    return (one.state, one.kind, one.holders, one.shared, one.readers) == (
        other.state, other.kind, other.holders, other.shared, other.readers,
    )  # fmt: skip


def _joined(one: Piece, other: Piece) -> Piece:
    """Both as one, that looks like the longer."""
    like = one if one.length >= other.length else other
    return Piece(one.start, one.length + other.length, like.state, like.kind, like.holders,
                 like.shared, like.readers)  # fmt: skip


def _absorb(parts: Sequence[Piece], least: int) -> list[Piece]:
    """Runs of neighbours that are together shorter than ``least`` become one each."""
    out: list[Piece] = []
    longest: Piece | None = None  # of those that the last one of `out` was made of
    for piece in parts:
        last = out[-1] if out else None
        if last is None or longest is None or last.length + piece.length >= least:
            out.append(piece)
            longest = piece
            continue
        longest = max(longest, piece, key=lambda p: p.length)
        out[-1] = Piece(last.start, last.length + piece.length, longest.state, longest.kind,
                        longest.holders, longest.shared, longest.readers)  # fmt: skip
    return out


def _label(piece: Piece) -> str:
    """The legend's word for it."""
    if piece.kind != "session":
        return piece.kind
    return "shared" if piece.shared > 1 else piece.state
