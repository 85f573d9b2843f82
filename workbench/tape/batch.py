"""Training batches: contexts, with questions branching off many positions under a tree mask.

A branch reads the context up to its position, then itself, with positions that go on from there:
just what the engine computes when it asks, so nothing about asking is new to the model in use.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from workbench.tape.attention import GROUP
from workbench.tape.generators import SCHEMAS, SHARES, Stream, make_stream
from workbench.tape.hints import (
    EXTREMES,
    MOVES,
    NAME_TOKENS,
    SIZES,
    Hints,
    name_words,
    number_words,
    row_targets,
)
from workbench.tape.moments import Asked
from workbench.tape.names import retold
from workbench.tape.questions import ask, suits
from workbench.tape.tokenizer import ANSWER

VALUES = ("last", "extreme", "ago", "larger")  # families whose answers are printed values
CHOICE_WEIGHT = 2.0  # one choice token stands beside some three tokens of a value
END_WEIGHT = 0.2
ROW_SHARE = 0.5  # of the rows' tokens, those that the language-modelling loss scores
ROW_TOKENS = {"ohlcv": 15, "iot": 12, "vitals": 7, "event": 9, "spatial": 10, "rows": 6}


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
        number = self.asked.family == "compare" and not self.asked.choices
        if self.asked.family not in VALUES and not number:
            weights[:-1] = CHOICE_WEIGHT / (len(self.answer) - 1)
        return weights


@dataclass(frozen=True)
class Batch:
    """Tensors of one step: ``batch`` contexts of ``tokens`` tokens, context first, then branches.

    The context is read causally. Branches lie in groups of `GROUP` tokens, earliest first; ``mask``
    [batch, 1, branch tokens, context + GROUP] is true where a branch token may read the context or
    its own group, and no row of group g reads past ``ends[g]`` context tokens. ``targets`` is the
    next token, ``answer_weight`` and ``row_weight`` its weight in the two losses (0: unscored).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    ends: tuple[int, ...]
    targets: torch.Tensor
    answer_weight: torch.Tensor
    row_weight: torch.Tensor
    hints: Hints | None = None

    @property
    def context(self) -> int:
        """Tokens of each context."""
        return self.ids.shape[1] - self.mask.shape[2]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Batch(**{n: v.to(device) if hasattr(v, "to") else v for n, v in fields.items()})


def row_ids(
    tokenizer: PreTrainedTokenizerFast, stream: Stream, limit: int
) -> tuple[list[int], list[list[int]]]:
    """What stands before the rows, and each whole row's tokens; at most ``limit`` in all."""
    core = tokenizer.backend_tokenizer
    head = [tokenizer.bos_token_id]
    if stream.head:
        head += core.encode(stream.head, add_special_tokens=False).ids
    used = len(head)
    rows = []
    for line in core.encode_batch(stream.lines, add_special_tokens=False):
        used += len(line.ids)
        if used > limit:
            break
        rows.append(line.ids)
    return head, rows


def context_ids(
    tokenizer: PreTrainedTokenizerFast, stream: Stream, limit: int
) -> tuple[list[int], list[int]]:
    """The context's tokens, at most ``limit`` in whole rows, and how many after each row."""
    head, rows = row_ids(tokenizer, stream, limit)
    ends = (len(head) + np.cumsum([len(row) for row in rows], dtype=int)).tolist()
    return [*head, *(token for row in rows for token in row)], ends


def branch_ids(tokenizer: PreTrainedTokenizerFast, asked: Asked) -> tuple[list[int], list[int]]:
    """A question's tokens up to where the answer begins, and the answer's with its end."""
    core = tokenizer.backend_tokenizer
    question = core.encode(asked.text + ANSWER, add_special_tokens=False).ids
    answer = core.encode(asked.answer, add_special_tokens=False).ids
    return question, [*answer, tokenizer.eos_token_id]


def branches_for(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[Asked], ends: list[int]
) -> list[Branch]:
    """The branches of ``questions``, ``ends`` as `context_ids` gives them."""
    core = tokenizer.backend_tokenizer
    texts = [text for asked in questions for text in (asked.text + ANSWER, asked.answer)]
    ids = [found.ids for found in core.encode_batch(texts, add_special_tokens=False)]
    return [
        Branch(ends[asked.rows - 1], ids[2 * n], [*ids[2 * n + 1], tokenizer.eos_token_id], asked)
        for n, asked in enumerate(questions)
    ]


def make_batch(
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    *,
    batch: int,
    context: int,
    branches: int,
    max_k: int = 20,
    more: Mapping[str, float] | None = None,
    names: float = 0.0,
    several: float | None = None,
    plain: bool = False,
    schemas: Sequence[float] = SHARES,
) -> Batch:
    """``batch`` streams of ``context`` tokens, each with questions filling ``branches`` tokens.

    ``schemas`` are the shares of `SCHEMAS`; questions look back at most ``max_k`` rows; ``more``
    holds shares of them that are of one family, on every stream that it suits; a share of
    ``names`` of the streams is retold with names that no list holds, one of ``several`` has several
    members where that is given; ``plain`` questions compare in one direction only.
    """
    starts_word = word_starts(tokenizer)
    made = []
    found: list[tuple[np.ndarray, ...]] = []
    for b in range(batch):
        rows: list[list[int]] = []
        while not rows:  # a row of many columns may be longer than a short context
            schema = str(rng.choice(SCHEMAS, p=schemas))
            many = None if several is None else bool(rng.random() < several)
            stream = make_stream(rng, context // ROW_TOKENS[schema] + 2, schema, several=many)
            if names and rng.random() < names:
                stream = retold(rng, stream)
            head, rows = row_ids(tokenizer, stream, context)
        seen = [*head, *(token for row in rows for token in row)]
        ends = (len(head) + np.cumsum([len(row) for row in rows], dtype=int)).tolist()
        found.append(_hints(stream, rows, b * context + len(head), starts_word))
        families = _drawn(rng, stream, more or {}, branches // 9 + 2)
        asked = [
            ask(rng, stream, int(at), family, max_k=max_k, plain=plain)
            for at, family in zip(
                rng.integers(1, len(rows) + 1, branches // 9 + 2), families, strict=True
            )
        ]
        drawn = branches_for(tokenizer, [a for a in asked if a], ends)
        made.append((seen, fitting(drawn, branches)))
    laid = lay_out(tokenizer, made, context, branches)
    kept = torch.from_numpy(rng.random(laid.row_weight.shape) < ROW_SHARE)
    parts = [torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True)]
    return replace(laid, row_weight=laid.row_weight * kept, hints=Hints(*parts))


def _drawn(
    rng: np.random.Generator, stream: Stream, more: Mapping[str, float], number: int
) -> list[str | None]:
    """Families of ``number`` questions, None for one that the stream's own shares draw."""
    suit = suits(stream)
    shares = {family: share for family, share in more.items() if family in suit}
    bounds = np.cumsum(list(shares.values()))
    kinds = [*shares, None]
    return [kinds[n] for n in np.searchsorted(bounds, rng.random(number), side="right")]


def word_starts(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Whether each token begins with a space, bool [vocabulary]."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return np.array([token.startswith("\u0120") for token in tokens])


def _hints(
    stream: Stream, rows: list[list[int]], begin: int, starts_word: np.ndarray
) -> tuple[np.ndarray, ...]:
    """`Hints` of one context whose first row begins at ``begin``, as arrays."""
    words = number_words(stream)
    targets, counts = row_targets(stream, len(rows))
    wanted = np.array(list(words.values()), dtype=int)
    name_begins, name_ends = name_words(stream)
    at = np.empty((len(rows), len(wanted)), dtype=np.int64)
    row_ends = np.empty(len(rows), dtype=np.int64)
    said: list[tuple[np.ndarray, np.ndarray]] = [
        (np.empty(0, np.int64), np.empty((0, NAME_TOKENS), np.int64))
    ]
    for n, row in enumerate(rows):
        starts = np.flatnonzero(starts_word[row])
        ends = np.append(starts, len(row) - 1) - 1  # the last token of each word
        at[n] = begin + ends[wanted]
        if name_ends:
            first = ends[name_begins - 1] + 1 if name_begins else 0
            after = ends[name_ends - 1] + 1
            places = np.arange(begin + after, begin + len(row) - 1)
            said.append((places, np.tile(_padded(row[first:after]), (len(places), 1))))
        begin += len(row)
        row_ends[n] = begin - 1
    whose_at, whose = (np.concatenate(part) for part in zip(*said, strict=True))
    moves = [targets[column][0] for column in words]
    classes = [targets[column][1] for column in words]
    if not words:
        width = len(MOVES), len(SIZES) + 2 * len(EXTREMES)
        empty = np.empty((0, width[0]), np.float32), np.empty((0, width[1]), np.int64)
        return at.reshape(-1), *empty, row_ends, counts, whose_at, whose
    return (
        at.reshape(-1),
        np.stack(moves, 1).reshape(at.size, -1),
        np.stack(classes, 1).reshape(at.size, -1),
        row_ends,
        counts,
        whose_at,
        whose,
    )


def _padded(name: list[int]) -> np.ndarray:
    """A name's last tokens, -1 after them, int64 [NAME_TOKENS]."""
    tokens = name[-NAME_TOKENS:]
    return np.array(tokens + [-1] * (NAME_TOKENS - len(tokens)))


def lay_out(
    tokenizer: PreTrainedTokenizerFast,
    made: list[tuple[list[int], list[Branch]]],
    context: int,
    branches: int,
) -> Batch:
    """Contexts and their branches as one batch; a branch that has no room left is left out."""
    if branches % GROUP:
        raise ValueError(f"expected room for branches in groups of {GROUP}, got {branches} tokens")
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


def fitting(drawn: list[Branch], branches: int) -> list[Branch]:
    """As many of ``drawn`` as there is room for, the first of them.

    Drawn at random, they ask about every part of the context; the earliest that fit would not.
    """

    def too_many(number: int) -> bool:
        return len(_placed(drawn[:number], branches)) < number

    return drawn[: bisect.bisect_left(range(len(drawn) + 1), True, key=too_many) - 1]


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
