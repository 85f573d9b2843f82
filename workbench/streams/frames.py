"""Whatever a person pushes -> rows: dicts of column to value, or lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workbench.errors import RowError

Row = dict[str, Any]


def to_rows(data: Any) -> list[Row] | list[str]:
    """The rows of a dict, a text, a list of either, or a polars or pandas frame.

    A named tuple is a dict too, and so is a pandas Series whose labels are all different texts, as
    a row of a frame is; any other Series is a list of its values. Bytes are text in UTF-8. A text
    is one row, however many lines it has.

    Raises:
        RowError: it is none of these, or mixes dicts and texts, or is not valid UTF-8.
    """
    data = as_dict(data)
    if isinstance(data, (str, bytes)):
        return [_text(data)]
    if isinstance(data, dict):
        return [data]
    if is_frame(data):
        return list(frame_rows(data))
    if isinstance(data, Iterable):
        items = [as_dict(item) for item in data]
        if all(isinstance(item, (str, bytes)) for item in items):
            return [_text(item) for item in items]
        if all(isinstance(item, dict) for item in items):
            return items
        kinds = sorted({type(item).__name__ for item in items})
        rows = any(isinstance(item, (str, bytes, Mapping)) for item in items)
        do = "push them apart" if rows else "push a frame, or each row as {'column': value}"
        msg = f"expected a list of dicts or a list of texts, got a list of {', '.join(kinds)}; {do}"
        raise RowError(msg)
    msg = (
        f"expected a dict, a text, a list of either, or a polars or pandas frame, "
        f"got {type(data).__name__}; wrap it: push({{'value': {str(data)[:20]}}})"
    )
    raise RowError(msg)


def frame_rows(frame: Any) -> Iterator[Row]:
    """Rows of a polars (lazy or not) or pandas frame; a pandas index is not a column.

    What pandas has for nothing is None.

    Raises:
        RowError: two of its columns have one name.
    """
    if hasattr(frame, "collect"):
        frame = frame.collect()
    if hasattr(frame, "iter_rows"):
        yield from frame.iter_rows(named=True)
        return
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"expected columns of different names, got several of {', '.join(map(repr, twice))}"
        raise RowError(f"{msg}; rename or drop them")
    for values in frame.itertuples(index=False, name=None):
        yield {name: _plain(value) for name, value in zip(names, values, strict=True)}


def is_frame(data: Any) -> bool:
    """Whether it is a polars (lazy or not) or pandas frame."""
    return any(hasattr(data, name) for name in ("iter_rows", "collect", "itertuples"))


def as_dict(data: Any) -> Any:
    """A row as a dict of Python's own values, however it names them; anything else as it is."""
    if hasattr(data, "_asdict"):  # a named tuple
        data = data._asdict()
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items()}
    if hasattr(data, "to_dict") and hasattr(data, "index") and hasattr(data, "array"):  # a Series
        names = list(data.index)
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return {name: _plain(value) for name, value in zip(names, data, strict=True)}
    return data


def _plain(value: Any) -> Any:
    """A value of pandas or numpy as one of Python; NaT and NA are None."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    try:
        return value.item() if hasattr(value, "item") else value
    except (TypeError, ValueError, RuntimeError):  # an array: whoever renders it says what is wrong
        return value


def _text(data: str | bytes) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = (
            f"expected UTF-8 text, got byte {data[error.start]:#04x} at {error.start}; decode it "
            "yourself, for instance with data.decode('latin-1')"
        )
        raise RowError(msg) from error
