"""What a step costs, learned from the steps that ran: a line through tokens and cells read."""

from __future__ import annotations

from collections.abc import Sequence

# Scales that bring the three terms of a typical step to about one.
TOKENS, READS = 64.0, 64.0 * 4096
FORGET = 0.9  # of a size of step, at each further step of that size: about the last ten count
FAITH = 1e-4  # weight of what is assumed at the start, beside what steps have shown


class CostModel:
    """Seconds of a step: ``base + per_token * tokens + per_read * reads``.

    ``reads`` is the sum over a step's slices of query tokens times the cached cells each reads.
    The line is the least-squares fit of the *relative* error over the latest steps of each size:
    a stalled step weighs next to nothing, since it can be wrong by all of its own time at most, and
    an hour of decoding does not make it forget what large chunks cost. No coefficient is negative.

    Args:
        base, per_token, per_read: seconds to begin with.
    """

    def __init__(self, base: float = 2e-3, per_token: float = 1e-4, per_read: float = 1e-9) -> None:
        self._start = [base, per_token * TOKENS, per_read * READS]
        self._sums: dict[int, list[float]] = {}  # by size of step: its normal equations
        self._weights: list[float] | None = None  # as fitted to these

    def observe(self, tokens: float, reads: float, seconds: float) -> None:
        """A step has run: move the line towards it."""
        if seconds <= 0:
            return
        x = [1.0 / seconds, tokens / TOKENS / seconds, reads / READS / seconds]
        terms = [x[i] * x[j] for i in range(3) for j in range(3)] + x
        size = int(tokens).bit_length()
        before = self._sums.get(size, [0.0] * 12)
        self._sums[size] = [FORGET * old + new for old, new in zip(before, terms, strict=True)]
        self._weights = None

    def predict(self, tokens: float, reads: float) -> float:
        """Seconds of a step of so many tokens that read so many cells in all."""
        base, per_token, per_read = self._fitted()
        return base + per_token * tokens / TOKENS + per_read * reads / READS

    def tokens_within(self, seconds: float, tokens: float, reads: float, context: float) -> int:
        """How many more tokens fit into a step of ``seconds`` that has ``tokens`` and ``reads``.

        Args:
            context: cells that each of the new tokens reads.
        """
        left = seconds - self.predict(tokens, reads)
        each = self.predict(1, context) - self.predict(0, 0)
        if left <= 0:
            return 0
        return int(min(left / each, 1e9)) if each > 0 else 10**9

    @property
    def coefficients(self) -> dict[str, float]:
        """Seconds by name, as the constructor takes them."""
        base, per_token, per_read = self._fitted()
        return {"base": base, "per_token": per_token / TOKENS, "per_read": per_read / READS}

    def _fitted(self) -> Sequence[float]:
        if self._weights is None:
            total = [sum(column) for column in zip(*self._sums.values(), strict=True)] or [0.0] * 12
            matrix = [total[3 * i : 3 * i + 3] for i in range(3)]
            right = total[9:]
            for i, start in enumerate(self._start):
                # What was assumed at the start decides what the steps leave open.
                faith = FAITH * matrix[i][i] + FAITH**2 / max(start, FAITH) ** 2
                matrix[i][i] += faith
                right[i] += faith * start
            self._weights = _solve_non_negative(matrix, right)
        return self._weights


def _solve_non_negative(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system; what would be negative is zero, the rest is refitted."""
    kept = list(range(len(right)))
    while kept:
        solved = _solve([[matrix[i][j] for j in kept] for i in kept], [right[i] for i in kept])
        worst = min(range(len(kept)), key=solved.__getitem__)
        if solved[worst] >= 0:
            out = [0.0] * len(right)
            for i, value in zip(kept, solved, strict=True):
                out[i] = value
            return out
        del kept[worst]
    return [0.0] * len(right)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gaussian elimination; the diagonal of a positive definite matrix needs no pivoting."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        for below in rows[i + 1 :]:
            factor = below[i] / rows[i][i]
            for j in range(i, size + 1):
                below[j] -= factor * rows[i][j]
    out = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * out[j] for j in range(i + 1, size))
        out[i] = (rows[i][size] - known) / rows[i][i]
    return out
