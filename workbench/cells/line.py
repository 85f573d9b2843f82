"""A line: a sequence, the log of the tokens its cells stand for, and their content-hash chain."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from workbench.cells.sequence import Sequence as Cells

# Tokens per link of the hash chain. Lookups begin at a link and go on token by token, so it sets
# the number of hashes, not how finely lines share.
STRETCH = 32


class Line:
    """Tokens in order, the first ``computed`` of which have their K and V in cells.

    The log may run ahead of the cells: then a window is being rebuilt, or a session that was
    evicted is coming back.

    Attributes:
        sequence: where the cells are.
        token_ids: the log, int32.
        digests: ``digests[i]`` names the content of the first ``(i + 1) * STRETCH`` computed
            tokens (BLAKE2b over the digest before it and the stretch's tokens).
    """

    def __init__(self, sequence: Cells, token_ids: Iterable[int] = ()) -> None:
        self.sequence = sequence
        self.token_ids = array("i", token_ids)
        self.digests: list[bytes] = []

    @property
    def computed(self) -> int:
        """Tokens whose cells have been written."""
        return self.sequence.length - self.sequence.gap

    @property
    def pending(self) -> int:
        """Tokens of the log that have yet to be computed."""
        return len(self.token_ids) - self.computed

    def upcoming(self, num_tokens: int) -> Sequence[int]:
        """The next tokens of the log that have yet to be computed, at most ``num_tokens``."""
        return self.token_ids[self.computed : self.computed + num_tokens]

    def digest(self, num_stretches: int) -> bytes:
        """Names the content of the first stretches; empty for none."""
        return self.digests[num_stretches - 1] if num_stretches else b""

    def hash_on(self) -> list[bytes]:
        """Extend the chain over every whole stretch computed since; returns the new links."""
        first = len(self.digests)
        for stretch in range(first, self.computed // STRETCH):
            tokens = self.token_ids[stretch * STRETCH : (stretch + 1) * STRETCH]
            link = blake2b(self.digest(stretch), digest_size=16)
            link.update(tokens.tobytes())
            self.digests.append(link.digest())
        return self.digests[first:]
