"""One question to two sessions: what a fork's own rows change about the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.answer import Answer
from workbench.asking import result_of
from workbench.session import Session


@dataclass(frozen=True)
class Diff:
    """Two answers to one question, complete."""

    first: Answer
    second: Answer

    @property
    def same(self) -> bool:
        """Whether both say the same."""
        return self.first.text == self.second.text

    @property
    def shift(self) -> dict[str, float]:
        """How much likelier each choice is to the second; empty for an open question."""
        before, after = self.first.probabilities, self.second.probabilities
        return {choice: after[choice] - before[choice] for choice in before}

    def __repr__(self) -> str:
        def said(answer: Answer) -> str:
            return f"{answer.session_name} {answer.text!r} ({answer.confidence:.2f})"

        return f"Diff({said(self.first)} -> {said(self.second)}{', the same' * self.same})"


def diff(
    first: Session, second: Session, question: str, *, timeout: float | None = None, **options: Any
) -> Diff:
    """Ask two sessions the same, at once, and wait for both answers.

    Where they are forks, what they have in common is read once for both.

    Args:
        first, second: such as a session and its fork.
        question: the words.
        timeout: seconds to wait for either before giving up (both are cancelled).
        options: as `Session.ask` takes them: ``choices``, ``max_tokens``, ``at`` and so on.

    Raises:
        What `Session.ask` raises, of either session; the other question is cancelled.
    """
    answers: list[Answer] = []
    try:
        for session in (first, second):
            answers.append(session.ask_start(question, **options))
        for answer in answers:
            result_of(answer, timeout)
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return Diff(*answers)
