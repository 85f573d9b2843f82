"""What a session is opened with, checked before anything is promised: new, forked, restored."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.engine.admission import SessionSpec
from workbench.engine.origin import Origin
from workbench.engine.work import Overflow
from workbench.errors import CellsExhausted, SessionExists, WorkbenchError
from workbench.streams.render import Schema, schema_for
from workbench.tick import OnFull

if TYPE_CHECKING:
    from workbench.front import Engine
    from workbench.session import Session

DEFAULT_BUDGET = 16_384


def spec_of(
    engine: Engine,
    name: str,
    prompt: str | None = None,
    schema: str | None = None,
    cells: int | None = None,
    overflow: Overflow = "error",
    window: int | None = None,
    evictable: bool = False,
    on_full: OnFull = "block",
    max_pending: int = 4096,
) -> tuple[SessionSpec, Schema]:
    """What ``Engine.open`` was told, checked, and how the session's rows read.

    Raises:
        SessionExists, CellsExhausted, WorkbenchError: with the numbers.
    """
    _check_name(engine, name)
    if not isinstance(prompt, str | None):
        msg = f"prompt={prompt!r}: expected a text, or None for none"
        raise WorkbenchError(msg)
    if overflow not in ("error", "rebuild", "evict"):
        msg = f"overflow={overflow!r}: expected 'error', 'rebuild' or 'evict'"
        raise WorkbenchError(msg)
    if on_full not in ("block", "raise", "drop_oldest"):
        msg = f"on_full={on_full!r}: expected 'block', 'raise' or 'drop_oldest'"
        raise WorkbenchError(msg)
    whole = {"cells": cells, "window": window, "max_pending": max_pending}
    for option, value in whole.items():
        if value is not None and not _is_whole(value):
            msg = f"{option}={value!r}: expected a whole number"
            raise WorkbenchError(msg)
    if max_pending < 1:
        msg = f"max_pending={max_pending}: expected at least 1 row"
        raise WorkbenchError(msg)
    columns = schema_for(schema)
    head = engine.tokens.head(prompt)
    most = engine.decoder.max_positions
    budget = cells
    if budget is None:
        budget = min(DEFAULT_BUDGET, most, max(1, engine.admission.for_sessions // 2))
    if window is not None and overflow != "rebuild":
        msg = f"window={window}: only overflow='rebuild' has one, got overflow={overflow!r}"
        raise WorkbenchError(msg)
    if evictable and overflow == "evict":
        msg = (
            "evictable=True with overflow='evict': such a window cannot be computed again, "
            "since its keys remember rows that have left; use overflow='rebuild'"
        )
        raise WorkbenchError(msg)
    keep = budget // 4 if window is None else window
    spec = SessionSpec(name, operator.index(budget), head, operator.index(max_pending), on_full,
                       overflow, operator.index(keep) if overflow == "rebuild" else 0,
                       evictable)  # fmt: skip
    _check_fits(spec, most)
    return spec, columns


def fork_of(
    engine: Engine, parent: Session, name: str, origin: Origin, cells: int | None
) -> tuple[SessionSpec, Schema]:
    """A session that goes on from ``origin``, a moment of ``parent``, and is what that one is.

    Raises:
        SessionExists, CellsExhausted, WorkbenchError: with the numbers.
    """
    _check_name(engine, name)
    _check_cells(cells)
    ingest = parent.ingest
    window, ticks = ingest.window, ingest.ticks
    spec = SessionSpec(
        name, ingest.budget if cells is None else operator.index(cells),
        origin.token_ids[: origin.head], ticks.max_rows, ticks.on_full,
        window.overflow if window is not None else "error",
        window.keep if window is not None else 0, ingest.evictable, origin,
    )  # fmt: skip
    _check_fits(spec, engine.decoder.max_positions)
    return spec, copy.copy(parent.schema)


def restored(
    engine: Engine, about: Mapping[str, Any], origin: Origin, name: str | None, cells: int | None
) -> SessionSpec:
    """The session of a file, under its own name and with its own budget unless told otherwise.

    Raises:
        SessionExists, CellsExhausted, WorkbenchError: with the numbers.
    """
    name = about["name"] if name is None else name
    _check_name(engine, name)
    _check_cells(cells)
    spec = SessionSpec(
        name, about["budget"] if cells is None else operator.index(cells),
        origin.token_ids[: origin.head],
        about["max_pending"], about["on_full"], about["overflow"], about["keep"],
        about["evictable"], origin,
    )  # fmt: skip
    _check_fits(spec, engine.decoder.max_positions)
    return spec


def check_wait(wait: Any) -> None:
    """Raise `WorkbenchError` for what ``wait=`` cannot be."""
    if not isinstance(wait, (bool, int, float)) or not wait >= 0:  # NaN is not either
        msg = f"wait={wait!r}: expected True, False or a number of seconds"
        raise WorkbenchError(msg)


def _check_name(engine: Engine, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or any(c.isspace() for c in name):
        msg = f"session name {name!r}: expected a text without spaces"
        raise WorkbenchError(msg)
    if name in engine.sessions:
        msg = f"session {name!r} is open; use engine.session({name!r}), or close it first"
        raise SessionExists(msg)


def _check_cells(cells: Any) -> None:
    if cells is not None and not _is_whole(cells):
        msg = f"cells={cells!r}: expected a whole number"
        raise WorkbenchError(msg)


def _check_fits(spec: SessionSpec, most: int) -> None:
    """Room for what it begins with and more, within the model's positions and its own window."""
    head = len(spec.head)
    begins = head if spec.origin is None else len(spec.origin.token_ids)
    takes = f"{'its prompt takes' if spec.origin is None else 'it begins with'} {begins:,}"
    least = begins if spec.origin is not None else begins + 1  # one that is full can be asked
    if not least <= spec.capacity <= most:
        msg = (
            f"session {spec.name!r} wants {spec.budget:,} cells"
            f"{', half of them for its next window' if spec.overflow == 'rebuild' else ''}; "
            f"expected room for {least:,} at least, since {takes}, and at most the "
            f"{most:,} positions of the model"
        )
        raise CellsExhausted(msg)
    if spec.overflow == "rebuild" and not head < spec.keep < spec.capacity:
        msg = (
            f"window={spec.keep:,}: expected more than the {head:,} tokens of the prompt and "
            f"fewer than half of the session's {spec.budget:,} cells"
        )
        raise CellsExhausted(msg)


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
