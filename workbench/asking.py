"""The options of a question as people give them, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.errors import QuestionError


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Texts that end an answer."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def closed_answers(choices: Sequence[str] | None) -> tuple[str, ...]:
    """The answers of a closed question; none for an open one.

    Raises:
        QuestionError: fewer than two, or two alike.
    """
    if choices is None:
        return ()
    closed = tuple(choices) if not isinstance(choices, str) else (choices,)
    if len(set(closed)) != len(closed) or len(closed) < 2:
        msg = f"choices={choices!r}: expected at least two different texts"
        raise QuestionError(msg)
    return closed
