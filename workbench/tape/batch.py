"""Training batches: contexts, with questions branching off many positions under a tree mask.

A branch reads the context up to its position, then itself, with positions that go on from there:
just what the engine computes when it asks, so nothing about asking is new to the model in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedTokenizerFast

from workbench.tape.questions import HINTS, MIX, Asked, Sample, ask, moves, stream
from workbench.tape.tokenizer import ANSWER

CHOICE_WEIGHT = 3.0  # one choice token stands beside some five digit tokens of a value
END_WEIGHT = 0.2
GROUP = 128  # tokens of branches that share one attention call


@dataclass(frozen=True)
class Branch:
    """One question after ``end`` context tokens: its tokens, its answer's, and what was asked."""

    end: int
    question: list[int]
    answer: list[int]
    asked: Asked

    @property
    def size(self) -> int:
        """Tokens it takes; the last one of the answer is only ever predicted."""
        return len(self.question) + len(self.answer) - 1

    def weights(self) -> np.ndarray:
        """The weight of each answer token in the loss."""
        weights = np.ones(len(self.answer), dtype=np.float32)
        weights[-1] = END_WEIGHT
        if self.asked.family != "last":
            weights[:-1] = CHOICE_WEIGHT / (len(self.answer) - 1)
        return weights


@dataclass(frozen=True)
class Batch:
    """Tensors of one step: ``batch`` contexts of ``tokens`` tokens, context first, then branches.

    The context is read causally. Branches lie in groups of `GROUP` tokens, earliest first; ``mask``
    [batch, 1, branch tokens, context + GROUP] is true where a branch token may read the context or
    its own group, and no row of group g reads past ``ends[g]`` context tokens. ``targets`` is the
    next token, ``answer_weight`` and ``row_weight`` its weight in the two losses (0: unscored);
    ``hints`` [batch, context, moves] is NaN but at row ends, see `moves`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    ends: tuple[int, ...]
    targets: torch.Tensor
    answer_weight: torch.Tensor
    row_weight: torch.Tensor
    hints: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Batch(**{n: v.to(device) if torch.is_tensor(v) else v for n, v in fields.items()})


def context_ids(
    tokenizer: PreTrainedTokenizerFast, sample: Sample, limit: int
) -> tuple[list[int], list[int]]:
    """The context's tokens, at most ``limit``, and how many there are after each whole row."""
    core = tokenizer.backend_tokenizer
    ids = [tokenizer.bos_token_id]
    if sample.head:
        ids += core.encode(sample.head, add_special_tokens=False).ids
    ends = []
    for line in core.encode_batch(sample.lines, add_special_tokens=False):
        ids += line.ids
        if len(ids) > limit:
            break
        ends.append(len(ids))
    return ids[:limit], ends


def branch_ids(tokenizer: PreTrainedTokenizerFast, asked: Asked) -> tuple[list[int], list[int]]:
    """A question's tokens up to where the answer begins, and the answer's with its end."""
    core = tokenizer.backend_tokenizer
    question = core.encode(asked.text + ANSWER, add_special_tokens=False).ids
    answer = core.encode(asked.answer, add_special_tokens=False).ids
    return question, [*answer, tokenizer.eos_token_id]


def rows_for(context: int, kind: str) -> int:
    """Rows enough to fill ``context`` tokens with a stream of ``kind``."""
    return context // {"bars": 25, "symbols": 26, "rows": 7}[kind] + 2


def make_batch(
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    *,
    batch: int,
    context: int,
    branches: int,
    max_k: int,
    mix: Sequence[float] = MIX,
) -> Batch:
    """``batch`` streams of ``context`` tokens, each with questions filling ``branches`` tokens.

    ``mix`` is as in `ask`.
    """
    made = []
    hints = np.full((batch, context, len(HINTS)), np.nan, dtype=np.float32)
    for b in range(batch):
        kind = str(rng.choice(["bars", "symbols", "rows"], p=[0.7, 0.12, 0.18]))
        sample = stream(rng, rows_for(context, kind), kind)
        seen, row_ends = context_ids(tokenizer, sample, context)
        for rows, end in enumerate(row_ends, start=1):
            hints[b, end - 1] = moves(sample, rows)
        drawn = []
        room = branches * (GROUP - 16) // GROUP  # what groups lose at their ends
        for _ in range(branches // 8 if row_ends else 0):
            rows = int(rng.integers(1, len(row_ends) + 1))
            asked = ask(rng, sample, rows, max_k=max_k, mix=mix)
            if asked:
                branch = Branch(row_ends[rows - 1], *branch_ids(tokenizer, asked), asked)
                room -= branch.size
                if room < 0:
                    break
                drawn.append(branch)
        made.append((seen, drawn))
    laid = lay_out(tokenizer, made, context, branches)
    return replace(laid, hints=torch.from_numpy(hints))


def lay_out(
    tokenizer: PreTrainedTokenizerFast,
    made: list[tuple[list[int], list[Branch]]],
    context: int,
    branches: int,
) -> Batch:
    """Contexts and their branches as one batch; a branch that has no room left is left out."""
    tokens = context + branches
    ids = np.full((len(made), tokens), tokenizer.pad_token_id)
    targets = ids.copy()
    positions = np.zeros_like(ids)
    answer_weight = np.zeros(ids.shape, dtype=np.float32)
    row_weight = np.zeros(ids.shape, dtype=np.float32)
    mask = np.zeros((len(made), branches, context + GROUP), dtype=bool)
    at = np.arange(branches)
    mask[:, at, context + at % GROUP] = True  # padding reads itself: no empty softmax
    ends = [0] * (branches // GROUP)
    for b, (seen, drawn) in enumerate(made):
        n = len(seen)
        ids[b, :n] = seen
        positions[b, :n] = np.arange(n)
        targets[b, : n - 1] = seen[1:]
        row_weight[b, : n - 1] = 1.0
        for start, branch in _placed(drawn, branches):
            stop, group = start + branch.size, start // GROUP
            ends[group] = max(ends[group], branch.end)
            mask[b, start:stop, : branch.end] = True
            own = slice(context + start % GROUP, context + start % GROUP + branch.size)
            mask[b, start:stop, own] = np.tri(branch.size, dtype=bool)
            ids[b, context + start : context + stop] = branch.question + branch.answer[:-1]
            positions[b, context + start : context + stop] = branch.end + np.arange(branch.size)
            scored = slice(context + start + len(branch.question) - 1, context + stop)
            targets[b, scored] = branch.answer
            answer_weight[b, scored] = branch.weights()
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(mask)[:, None],
        tuple(ends),
        torch.from_numpy(targets),
        torch.from_numpy(answer_weight),
        torch.from_numpy(row_weight),
    )


def _placed(drawn: list[Branch], branches: int) -> list[tuple[int, Branch]]:
    """Branches, earliest first, none across two groups, each with where it begins."""
    placed = []
    at = 0
    for branch in sorted(drawn, key=lambda branch: branch.end):
        if at % GROUP + branch.size > GROUP:
            at += -at % GROUP
        if at + branch.size > branches:
            break
        placed.append((at, branch))
        at += branch.size
    return placed


def branching_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    ends: tuple[int, ...],
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention as `Batch` lays tokens out, in the form transformers asks for.

    ``query`` is [batch, heads, tokens, dim]; one dense mask would give twice the work.
    """
    context = query.shape[2] - attention_mask.shape[2]
    dtype = query.dtype
    if query.device.type == "cpu":  # a quarter faster there in float32 than in bfloat16
        query, key, value = query.float(), key.float(), value.float()

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, scale=scaling, enable_gqa=k.shape[1] != q.shape[1], **how
        )

    out = [attend(*(x[:, :, :context] for x in (query, key, value)), is_causal=True)]
    for group, end in enumerate(ends):
        begin = context + group * GROUP
        own = slice(begin, begin + GROUP)
        rows = attention_mask[:, :, begin - context : begin - context + GROUP]
        out.append(
            attend(
                query[:, :, own],
                torch.cat([key[:, :, :end], key[:, :, own]], dim=2),
                torch.cat([value[:, :, :end], value[:, :, own]], dim=2),
                attn_mask=torch.cat([rows[..., :end], rows[..., context:]], dim=3),
            )
        )
    return torch.cat(out, dim=2).transpose(1, 2).to(dtype), None


AttentionInterface.register("branching", branching_attention)
AttentionMaskInterface.register("branching", lambda *_, attention_mask=None, **__: attention_mask)
