"""A session in a file: its log, where its rows and versions ended, and the cells it has computed.

The file is a safetensors one: int32 ``token_ids``; int64 ``history.*`` and ``window.*``; where
cells were saved ``k.LAYER`` and ``v.LAYER``; all else as JSON in its metadata, ``workbench``.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.cells.history import History
from workbench.cells.window import WindowRows
from workbench.engine import carrying
from workbench.engine.origin import Origin
from workbench.engine.work import Ingest, Mark
from workbench.errors import WorkbenchError
from workbench.opening import restored
from workbench.streams.render import schema_for

if TYPE_CHECKING:
    from workbench.front import Engine
    from workbench.session import Session

FORMAT = 1  # goes up when what is written can no longer be read by what was


def save(session: Session, path: Path, *, cells: bool) -> Path:
    """Write a session, as it is visible now; the file is there whole or as it was before."""
    engine, ingest = session.engine, session.ingest

    def taken() -> tuple[Origin, dict[str, Tensor]]:
        origin = Origin.of(ingest, None)
        return origin, carrying.take(engine, ingest, len(origin.token_ids)) if cells else {}

    origin, carried = engine.call(taken)
    window, ticks = ingest.window, ingest.ticks
    about = {
        "format": FORMAT, "model": engine.model_name, "dtype": str(engine.dtype),
        "name": session.name, "prompt": session.prompt, "schema": session.schema.name,
        "columns": session.schema.columns, "budget": session.budget, "overflow": session.overflow,
        "keep": window.keep if window is not None else 0, "evictable": session.evictable,
        "on_full": ticks.on_full, "max_pending": ticks.max_rows, "now": list(origin.now),
        "gone": origin.history.gone, "window": origin.rows.counts, "slack": origin.slack,
        "tick": origin.tick, "tokenizer": engine.tokens.fingerprint, "head": origin.head,
    }  # fmt: skip
    tensors = {"token_ids": torch.tensor(origin.token_ids, dtype=torch.int32), **carried}
    for part, arrays in (("history", origin.history.arrays), ("window", origin.rows.arrays)):
        for name, values in arrays.items():
            tensors[f"{part}.{name}"] = torch.tensor(list(values), dtype=torch.int64)
    if not path.parent.is_dir():
        msg = f"{path.parent} is no folder; make it first"
        raise FileNotFoundError(msg)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, {"workbench": json.dumps(about)})
        partial.replace(path)
    except SafetensorError as error:  # which says neither which file nor that it is one
        msg = f"{path} could not be written ({error}); what was there is as it was"
        raise OSError(msg) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def restore(
    engine: Engine, path: Path, *, name: str | None, cells: int | None, wait: bool | float,
    compute: bool,
) -> Session:  # fmt: skip
    """Open the session of a file, as ``Engine.restore`` says."""
    about, tensors = _read(path)
    carried = {n: t for n, t in tensors.items() if n.startswith(("k.", "v."))}
    if carried and not compute and about["dtype"] != str(engine.dtype):
        msg = (
            f"{path}: its cells are {about['dtype']}, this engine's are {engine.dtype}; open the "
            "engine with that dtype, or restore it with compute=True"
        )
        raise WorkbenchError(msg)
    ids = tensors["token_ids"].tolist()
    # Files of before have no "head": theirs is read as it reads today.
    head = ids[: about["head"]] if "head" in about else engine.tokens.head(about["prompt"])
    origin = Origin(
        ids, len(head), Mark(*about["now"]),
        History.of(_ints(tensors, "history"), *about["gone"]),
        WindowRows.of(_ints(tensors, "window"), *about["window"]), about["slack"], about["tick"],
    )  # fmt: skip
    columns = schema_for(about["schema"])
    columns.columns = None if about["columns"] is None else tuple(about["columns"])
    most = max(ids, default=-1)
    same = about["tokenizer"] == engine.tokens.fingerprint and most < engine.decoder.vocab_size
    if not same or ids[: len(head)] != head:
        msg = (
            f"{path}: its text has other tokens than this engine's model {engine.model_name!r} "
            f"reads it as; open an engine with the model it was saved from ({about['model']!r})"
        )
        raise WorkbenchError(msg)
    spec = restored(engine, about, origin, name, cells)

    def first(ingest: Ingest) -> None:
        if not carried or compute:
            return
        try:
            carrying.put(engine, ingest, carried)
        except WorkbenchError as error:
            msg = (
                f"{path}: its cells are not of this engine's model {engine.model_name!r}, but of "
                f"{about['model']!r} ({error}); open an engine with that one, or restore it with "
                "compute=True"
            )
            raise WorkbenchError(msg) from None

    return engine.admit(replace(spec, first=first), columns, about["prompt"], wait)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says and holds."""
    if path.is_dir():
        msg = f"{path} is a folder; expected a file that session.save wrote"
        raise IsADirectoryError(msg)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["workbench"])
            if about["format"] != FORMAT:
                msg = f"{path}: expected format {FORMAT}, got {about['format']}; save it again"
                raise WorkbenchError(msg)
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, TypeError):
        msg = f"{path}: expected a file that session.save wrote"
        raise WorkbenchError(msg) from None


def _ints(tensors: dict[str, Tensor], part: str) -> dict[str, array[int]]:
    named = {n.removeprefix(f"{part}."): t for n, t in tensors.items() if n.startswith(f"{part}.")}
    return {name: array("q", tensor.tolist()) for name, tensor in named.items()}
