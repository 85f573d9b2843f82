"""What a live run sends: each session's own bars as rows, and the words of the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.bench.contenders import PROMPT, UP_DOWN, question_of
from workbench.bench.sessions.arrivals import Arrival, What, Workload
from workbench.bench.stream import SCHEMA, bars, take
from workbench.engine.tokens import Tokens
from workbench.streams.render import Row, schema_for

SAMPLE_TOKENS = 2048  # enough bars to know how long one is


@dataclass(frozen=True)
class Material:
    """Rows and words, made before anything is timed.

    Attributes:
        head: ids every session begins with.
        fills: by session, the rows it holds when it begins.
        ticks: rows of each tick, in order of arrival.
        tick_tokens: and their tokens.
        contexts: by session, tokens it holds when it begins.
        question: the words of every question.
        flash: the words of each session's standing questions; none is the same as ``question``,
            or asking would be served without a forward.
        choices: the answers of closed questions.
        longest: the most tokens a session has in the end.
    """

    head: list[int]
    fills: list[list[Row]]
    ticks: list[list[Row]]
    tick_tokens: list[int]
    contexts: list[int]
    question: str
    flash: list[str]
    choices: tuple[str, ...]
    longest: int


def prepare(workload: Workload, due: Sequence[Arrival], tokens: Tokens) -> Material:
    """Make what ``due`` sends; the same seed makes the same rows.

    Raises:
        WorkbenchError: no question of so many tokens was found for this tokenizer.
    """

    def encoded(rows: list[Row]) -> int:
        return len(tokens.data(text_of(rows)))

    streams = [bars(workload.seed + 1_000_000 * (s + 1)) for s in range(workload.sessions)]
    head = tokens.head(PROMPT)
    fills = [take(stream, workload.context - len(head), tokens.data) for stream in streams]
    contexts = [len(head) + encoded(rows) for rows in fills]
    sample = take(bars(workload.seed), SAMPLE_TOKENS, tokens.data)
    num_rows = max(1, round(workload.tokens_per_tick * len(sample) / encoded(sample)))
    lengths, ticks, tick_tokens = list(contexts), [], []
    for arrival in due:
        if arrival.what is What.TICK:
            rows = [next(streams[arrival.session]) for _ in range(num_rows)]
            ticks.append(rows)
            tick_tokens.append(encoded(rows))
            lengths[arrival.session] += tick_tokens[-1]
    question = question_of(tokens, workload.question_tokens)
    return Material(
        head=head, fills=fills, ticks=ticks, tick_tokens=tick_tokens, contexts=contexts,
        question=question, flash=[f"{question} {n}" for n in range(workload.flash)],
        choices=UP_DOWN, longest=max(lengths),
    )  # fmt: skip


def text_of(rows: Sequence[Row]) -> str:
    """The rows as the model reads them."""
    return schema_for(SCHEMA).render(list(rows))
