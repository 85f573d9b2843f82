"""A race continued: turns that were raced anew take the place of what a file has of them.

A peer has two turns with the machine: on contexts (single and standing questions), and in the mix.
Each is measured with the machine's bandwidth before and after, and notes the command of its own
where that is not the file's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.bench.race.options import MIX, PARTS, SINGLE, STANDING
from workbench.errors import WorkbenchError

TURNS = ({SINGLE, STANDING}, {MIX}, {SINGLE, STANDING, MIX})
ALIKE = ("model", "settings", "floor")  # of two results that may be put together


def check(parts: Sequence[str]) -> None:
    """Raise `WorkbenchError` unless these parts are whole turns."""
    if set(parts) not in TURNS:
        msg = f"parts {', '.join(parts)}: into a file go single and standing together, mix, or all"
        raise WorkbenchError(msg)


def check_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise `WorkbenchError` if two results are of different models, settings or machines."""
    for name in ALIKE:
        a, b = (_comparable(result[name]) for result in (old, new))
        if a != b:
            changed = ", ".join(key for key in {**a, **b} if a.get(key) != b.get(key))
            msg = f"the file's {name} are not those of this race ({changed}); race all of it anew"
            raise WorkbenchError(msg)
    for what in ("cpu", "cpu_family", "cpu_model", "gpu", "threads"):
        a, b = (result["machine"].get(what) for result in (old, new))
        if a != b:
            msg = f"the file's {what}: {a}, this race's: {b}; race all of it anew, into another"
            raise WorkbenchError(msg)


def put_into(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``old`` with the turns of ``new`` in place of its own, except where nothing was measured.

    A turn that failed at once leaves what the file has; ``tried`` says why it failed.

    Raises:
        WorkbenchError: they do not belong together, as `check_alike` says.
    """
    check_alike(old, new)
    said = {"command": new["command"], "began": new["began"]}
    peers = {peer["peer"]: peer for peer in old["peers"]}
    parts = set(new["settings"]["parts"])
    for peer in new["peers"]:
        before = peers.get(peer["peer"], {})
        contexts, mix = _turns(peer)
        contexts, mix = contexts | {"raced": said}, mix and mix | {"raced": said}
        contexts_before, mix_before = _turns(before)
        failed = [turn["failed"] for turn in (contexts, mix) if turn and turn["failed"]]
        left = [
            _measured(contexts_before) and not _measured(contexts),
            _measured(mix_before) and not _measured(mix),
        ]
        if before and (parts == {MIX} or left[0]):
            contexts = contexts_before
        if MIX not in parts or left[1]:
            mix = mix_before
        tried = said | {"failed": failed[0]} if failed and any(left) else None
        whole = contexts | {"mix": mix, "tried": tried}
        peers[peer["peer"]] = {k: v for k, v in whole.items() if v is not None or k == "failed"}
    known = {*old["settings"]["parts"], *parts}
    settings = old["settings"] | {"parts": [part for part in PARTS if part in known]}
    return {**old, "settings": settings, "peers": list(peers.values())}


def _turns(peer: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """On contexts, and in the mix."""
    return {k: v for k, v in peer.items() if k not in ("mix", "tried")}, peer.get("mix")


def _measured(turn: Mapping[str, Any] | None) -> bool:
    """Whether anything was."""
    turn = turn or {}
    standing = (turn.get("standing") or {}).get("samples")
    return bool(turn.get("samples") or standing or turn.get("runs"))


def _comparable(part: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it, without the parts raced; earlier files are of engines in turns."""
    plain = {k: v for k, v in json.loads(json.dumps(part)).items() if k != "parts"}
    return {"together": False} | plain
