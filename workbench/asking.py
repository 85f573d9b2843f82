"""The options of a question as people give them, checked before anything runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from workbench.answer import Answer
from workbench.engine.sampler import Sampling
from workbench.errors import QuestionError


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Texts that end an answer.

    Raises:
        QuestionError: they are no texts.
    """
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else _texts(stop, f"stop={stop!r}: expected texts")


def result_of(answer: Answer, timeout: float | None) -> Answer:
    """The complete answer; a question that takes too long is cancelled.

    Raises:
        TimeoutError: it took longer. Else what ended it.
    """
    try:
        return answer.result(timeout)
    except TimeoutError:
        answer.cancel()
        raise _too_late(timeout) from None


async def result_of_async(answer: Answer, seconds: float | None) -> Answer:
    """The same for a coroutine; cancelling the coroutine cancels the question."""
    if seconds is None:
        return await answer
    try:
        return await asyncio.wait_for(answer._result(), seconds)
    except TimeoutError:
        raise _too_late(seconds) from None


def _too_late(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"no answer after {timeout} s; the question was cancelled")


def closed_answers(choices: Sequence[str] | None) -> tuple[str, ...]:
    """The answers of a closed question; none for an open one.

    Raises:
        QuestionError: fewer than two, or two alike, or they are no texts.
    """
    if choices is None:
        return ()
    msg = f"choices={choices!r}: expected at least two different texts"
    closed = (choices,) if isinstance(choices, str) else _texts(choices, msg)
    if len(set(closed)) != len(closed) or len(closed) < 2:
        raise QuestionError(msg)
    return closed


def check_not_drawn(closed: Sequence[str], sampling: Sampling) -> None:
    """Raise `QuestionError` where a closed question is told how to draw tokens."""
    drawn = sampling.temperature > 0 or sampling.top_p < 1 or sampling.seed is not None
    if closed and drawn:
        msg = (
            "choices are scored, never drawn; leave out temperature, top_p and seed, or draw one "
            "yourself from answer.probabilities"
        )
        raise QuestionError(msg)


def _texts(given: Iterable[str], expected: str) -> tuple[str, ...]:
    texts = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(text, str) for text in texts):
        raise QuestionError(expected)
    return texts
