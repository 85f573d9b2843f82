"""Prompt lookup: an answer that repeats something from its context is guessed, then verified.

The guess is what followed the latest earlier occurrence of the last few tokens (Saxena 2023,
"Prompt Lookup Decoding"). The model computes the guesses in the same forward as the token before
them; a greedy answer takes only those it would have picked itself, so the text does not change.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

MAX_DRAFTS = 3  # 4 rows with the token before them: one read of the weights in the CPU's kernel
MAX_NGRAM = 3  # tokens that must have occurred before; shorter ends are tried down to MIN_NGRAM
MIN_NGRAM = 2
WIDTH = array("i").itemsize


def propose(context: bytes, own: Sequence[int], num: int) -> Sequence[int]:
    """Guess how an answer goes on.

    Args:
        context: the session's tokens, int32 in native order, oldest first.
        own: the question's and the answer's tokens so far.
        num: the most tokens to guess.

    Returns:
        At most ``num`` tokens; none where the last tokens occur nowhere before.
    """
    mine = array("i", own)
    text = context + mine.tobytes()
    for size in range(min(MAX_NGRAM, len(mine)), MIN_NGRAM - 1, -1):
        pattern = mine[-size:].tobytes()
        # An occurrence must end before the text's end, so that something follows it.
        end = len(text) - WIDTH
        while (at := text.rfind(pattern, 0, end)) >= 0:
            if at % WIDTH == 0:
                first = at + size * WIDTH
                return array("i", text[first : first + num * WIDTH])
            end = at + len(pattern) - 1  # the bytes match across two tokens: look further back
    return ()


def worthwhile(drafted: int, accepted: int) -> bool:
    """Whether an answer's guesses are right often enough to go on guessing."""
    return drafted < 4 * MAX_DRAFTS or 4 * accepted >= drafted
