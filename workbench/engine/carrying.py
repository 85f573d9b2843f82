"""A session's computed cells taken out of the pool, and put into another, where they are proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.cells.sequence import Sequence
from workbench.engine.batch import Part
from workbench.engine.work import Ingest
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.engine.engine import StepEngine

PROOF = 16  # tokens that are computed again and compared
# By how much they may differ, in every layer, as a share of their size, for types of 2 bytes and of
# more: other kernels round otherwise, by some 0.01 in bfloat16; another model's differ by 1 and
# more, and those of one that was trained on for a while by less.
BOUND_OF_TWO, BOUND = 0.05, 1e-3


def take(engine: StepEngine, session: Ingest, num_tokens: int) -> dict[str, Tensor]:
    """Copies of the K and V of a session's first tokens, as far as they are computed.

    Returns:
        ``k.LAYER`` and ``v.LAYER``, ``[kv_heads, tokens, dim]``, on the CPU.
    """
    num = min(num_tokens, session.line.computed)
    return {name: _read(tensor, session.sequence, 0, num) for name, tensor in _named(engine)}


def put(engine: StepEngine, session: Ingest, carried: Mapping[str, Tensor]) -> None:
    """Give a session the K and V of its first tokens instead of computing them.

    The last `PROOF` of them are computed all the same, from the others: what differs is of another
    model, and nobody has shared it. One that has no cells, or shares all of these, computes.

    Args:
        engine: its own thread calls this, between steps.
        session: that has just been opened and has run nothing; whose log begins with the tokens
            that the cells stand for.
        carried: what `take` gave.

    Raises:
        WorkbenchError: they are not this model's. The session is to be closed.
    """
    named = dict(_named(engine))
    shapes = {name: (t.shape[0], t.shape[2], t.dtype) for name, t in named.items()}
    found = {name: (t.shape[0], t.shape[2], t.dtype) for name, t in carried.items()}
    if shapes != found:
        name = min(n for n in shapes | found if shapes.get(n) != found.get(n))
        msg = f"expected {name} as {shapes.get(name, 'none')}, got {found.get(name, 'none')}"
        raise WorkbenchError(msg)
    line = session.line
    start, end = line.computed, next(iter(carried.values())).shape[1]
    if end > len(line.token_ids):
        msg = f"expected cells of {len(line.token_ids):,} tokens at most, got {end:,}"
        raise WorkbenchError(msg)
    if not session.resident or end - start <= PROOF:
        return
    engine.core.prefixes.remove(line)
    sequence, proof = line.sequence, end - PROOF
    for name, tensor in named.items():
        _write(tensor, sequence, start, carried[name][:, start:end])
    sequence.length = proof
    engine._forward([Part(sequence, proof, line.token_ids[proof:end])])
    for name, tensor in named.items():
        ours, theirs = _read(tensor, sequence, proof, end).float(), carried[name][:, proof:].float()
        apart = float((ours - theirs).norm() / ours.norm())
        if not apart <= (BOUND_OF_TWO if tensor.dtype.itemsize == 2 else BOUND):
            msg = f"{name} of the last {PROOF} tokens differ by {apart:.2g} from this model's own"
            raise WorkbenchError(msg)
    sequence.length = end
    engine.core.prefixes.add(line)
    engine.core.scheduler.set_context(session.work, line.computed)
    if line.pending == 0:
        engine.admission.arrived(session)


def _named(engine: StepEngine) -> list[tuple[str, Tensor]]:
    cells = engine.cells
    return [(f"{kind}.{i}", t) for kind in "kv" for i, t in getattr(cells, kind).items()]


def _read(tensor: Tensor, sequence: Sequence, start: int, end: int) -> Tensor:
    """What positions ``start .. end`` hold in one layer, as a copy."""
    slots = torch.tensor(sequence.slots(start, end), dtype=torch.long, device=tensor.device)
    return tensor.index_select(1, slots).cpu()


def _write(tensor: Tensor, sequence: Sequence, start: int, values: Tensor) -> None:
    slots = torch.tensor(sequence.slots(start, start + values.shape[1]), dtype=torch.long)
    tensor.index_copy_(1, slots.to(tensor.device), values.to(tensor.device))
