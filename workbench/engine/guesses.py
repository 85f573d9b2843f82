"""An open question is often answered as it was before: the last answer is the guess for the next.

The guess runs behind the question's own tokens, in the same step; what the model would have picked
itself is taken, so the text does not change. How far a guess goes depends on how far the last one
was right.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

FIRST_GUESS = 4  # tokens, before it is known how far guesses come true
MOST_GUESSED = 16
QUESTIONS_KEPT = 64  # of a session, those asked last


class Told(NamedTuple):
    """An answer's tokens, and how many of them to guess next time."""

    token_ids: tuple[int, ...]
    trust: int


class Guesses:
    """What one session's questions were answered."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[int, ...], Told] = OrderedDict()

    def of(self, question: Sequence[int]) -> tuple[int, ...]:
        """How the answer may begin. The last token of an answer is never run, so never guessed."""
        told = self._told.get(tuple(question))
        return () if told is None else told.token_ids[:-1][: told.trust]

    def learn(self, question: Sequence[int], guess: Sequence[int], answer: Sequence[int]) -> None:
        """The question was answered, after a guess or none."""
        key = tuple(question)
        before = self._told.pop(key, None)
        trust = FIRST_GUESS if before is None else before.trust
        pairs = zip(guess, answer, strict=False)
        right = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(guess), len(answer)))
        if right < len(guess):
            trust = right + 1  # a token further
        elif guess:
            trust = min(2 * trust, MOST_GUESSED)
        self._told[key] = Told(tuple(answer), trust)
        while len(self._told) > QUESTIONS_KEPT:
            self._told.popitem(last=False)
