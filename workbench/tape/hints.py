"""What small heads, not shipped, learn to read off the model's states while it trains.

At the end of every printed number: whether it is above what it was k rows before, by how much, and
which of the last k was the largest and the smallest; at the end of every row: how many of the last
k rows have the mark that `MARKED` names; and wherever a row says something of somebody: the tokens
of the name. A model that works these out where the rows are, long before it learns which question
wants them, learns the questions that compare, count and tell several apart; without hints they stay
at chance (LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from workbench.streams.render import move_text, price_text
from workbench.tape.generators import ENTITY, Stream
from workbench.tape.moments import mark, value_of

MOVES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
SIZES = (1, 2, 3, 5, 10, 20)
EXTREMES = (3, 5, 10)
COUNTS = (3, 5, 10)
CLASSES = 10
MARKED = {"ohlcv": {"up"}, "iot": {"low", "high"}, "event": {"ERROR"}}
NAME_TOKENS = 8  # of a longer name the last ones
WIDTH = len(MOVES) + CLASSES * (len(SIZES) + 2 * len(EXTREMES))


@dataclass
class Hints:
    """Targets of one batch; ``at``, ``rows_at`` and ``whose_at`` index [batch * context] tokens.

    ``moves`` [numbers, MOVES] is 1.0, 0.0 or NaN (not known); ``classes`` [numbers, SIZES then the
    two EXTREMES] and ``counts`` [rows, COUNTS] hold class numbers, -100 for not known; ``whose``
    [tokens said of somebody, NAME_TOKENS] holds the name's tokens, -1 where it has fewer.
    """

    at: torch.Tensor
    moves: torch.Tensor
    classes: torch.Tensor
    rows_at: torch.Tensor
    counts: torch.Tensor
    whose_at: torch.Tensor
    whose: torch.Tensor

    def to(self, device: torch.device) -> Hints:
        """The same on ``device``."""
        return Hints(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class HintHeads(torch.nn.Module):
    """Reads `Hints` off states."""

    def __init__(self, dim: int) -> None:
        """Heads for states of ``dim`` numbers."""
        super().__init__()
        self.numbers = torch.nn.Linear(dim, WIDTH)
        self.rows = torch.nn.Linear(dim, (max(COUNTS) + 1) * len(COUNTS))
        self.whose = torch.nn.Linear(dim, dim)

    def forward(
        self, states: torch.Tensor, hints: Hints, embeddings: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Mean losses of moves, of classes, of counts and of names.

        ``states`` is [batch, context, dim], ``embeddings`` [vocabulary, dim].
        """
        flat = states.reshape(-1, states.shape[-1])
        flat = flat * torch.rsqrt(flat.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        read = self.numbers(flat[hints.at]).float()
        known = ~hints.moves.isnan()
        moves = functional.binary_cross_entropy_with_logits(
            read[:, : len(MOVES)][known], hints.moves[known], reduction="sum"
        ) / known.sum().clamp(min=1)
        classes = functional.cross_entropy(
            read[:, len(MOVES) :].reshape(-1, CLASSES), hints.classes.reshape(-1), reduction="sum"
        ) / (hints.classes >= 0).sum().clamp(min=1)
        counted = self.rows(flat[hints.rows_at]).float().reshape(-1, max(COUNTS) + 1)
        counts = functional.cross_entropy(
            counted, hints.counts.reshape(-1), reduction="sum"
        ) / (hints.counts >= 0).sum().clamp(min=1)
        return moves, classes, counts, self._names(flat, hints, embeddings)

    def _names(self, flat: torch.Tensor, hints: Hints, embeddings: torch.Tensor) -> torch.Tensor:
        """How far what is read lies from the names' tokens, each as likely as the others of its
        name, among all tokens of the batch's names."""
        if not len(hints.whose_at):
            return flat.new_zeros((), dtype=torch.float32)
        known = hints.whose >= 0
        tokens, number = torch.unique(hints.whose[known], return_inverse=True)
        wanted = torch.zeros(len(known), len(tokens), device=flat.device)
        wanted.index_put_((known.nonzero()[:, 0], number), torch.ones(()).to(wanted), True)
        wanted /= wanted.sum(1, keepdim=True)
        asked = functional.normalize(embeddings[tokens].detach().float(), dim=-1)
        scale = 8.0  # of directions' products, so that a softmax over them can be sharp
        logits = scale * self.whose(flat[hints.whose_at]).float() @ asked.T
        return functional.cross_entropy(logits, wanted)


def number_words(stream: Stream) -> dict[str, int]:
    """Which word of a line ends in each column's number, from 0; where rows have names, which may
    be of several words, from the line's end: -1 is the last."""
    row = stream.rows[0]
    columns = [c for c, v in row.items() if not isinstance(v, str) and c != "time"]
    if stream.schema == "event":
        return {}
    if stream.schema == "iot":
        return {"value": -3}
    if ENTITY.get(stream.schema, "") in row:
        return {column: n - len(columns) for n, column in enumerate(columns)}
    at = {"ohlcv": 1}.get(stream.schema, 0) + ("date" in row)
    words = {}
    for column in columns:
        at += column.count(" ") if stream.schema == "rows" else 0
        words[column] = at
        at += 1
    return words


def name_words(stream: Stream) -> tuple[int, int]:
    """Where the name stands in a line that has one: its first word from 0, and the first word after
    it from the line's end; (0, 0) where there is none."""
    if ENTITY.get(stream.schema, "") not in stream.rows[0]:
        return 0, 0
    begin = {"ohlcv": 1, "iot": 1}.get(stream.schema, 0)
    return begin, min(number_words(stream).values())


def row_targets(
    stream: Stream, rows: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """For the first ``rows`` rows: per column its moves and classes, and the rows' counts."""
    made = {}
    for column in number_words(stream):
        values = np.array(
            [
                np.nan if (v := value_of(row, column, stream.schema)) is None else v
                for row in stream.rows[:rows]
            ]
        )
        moves = np.full((rows, len(MOVES)), np.nan, dtype=np.float32)
        classes = np.full((rows, len(SIZES) + 2 * len(EXTREMES)), -100)
        for own in stream.members.values():
            at = np.array([n for n in own if n < rows], dtype=int)
            if len(at):
                sized = column == "c" and stream.schema == "ohlcv"
                moves[at], classes[at] = _targets(values[at], sized=sized)
        made[column] = moves, classes
    counts = np.full((rows, len(COUNTS)), -100)
    if stream.schema in MARKED:
        wanted = MARKED[stream.schema]
        hits = np.array([mark(stream.schema, row) in wanted for row in stream.rows[:rows]])
        total = np.concatenate([[0], np.cumsum(hits)])
        for n, k in enumerate(COUNTS):
            counts[k - 1 :, n] = total[k:] - total[:-k] if rows >= k else counts[k - 1 :, n]
    return made, counts


def _targets(values: np.ndarray, *, sized: bool) -> tuple[np.ndarray, np.ndarray]:
    size = len(values)
    moves = np.full((size, len(MOVES)), np.nan, dtype=np.float32)
    for n, k in enumerate(MOVES):
        if size > k:
            change = values[k:] - values[:-k]
            moves[k:, n] = np.where(np.isnan(change) | (change == 0), np.nan, change > 0)
    classes = np.full((size, len(SIZES) + 2 * len(EXTREMES)), -100)
    if sized:
        texts = [price_text(value) for value in values]
        for n, k in enumerate(SIZES):
            for i in range(k, size):
                classes[i, n] = int(move_text(texts[i - k], texts[i]).lstrip("updown="))
    for n, k in enumerate(EXTREMES):
        if size >= k:
            window = np.lib.stride_tricks.sliding_window_view(values, k)[:, ::-1]
            whole = ~np.isnan(window).any(1)
            classes[k - 1 :, len(SIZES) + n][whole] = window[whole].argmax(1)
            classes[k - 1 :, len(SIZES) + len(EXTREMES) + n][whole] = window[whole].argmin(1)
    return moves, classes
