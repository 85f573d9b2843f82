"""What a step costs, learned from the steps that ran: a line through tokens and cells read."""

from __future__ import annotations

Vector = tuple[float, float, float]

# Scales that bring the three terms of a typical step to about one, so that one forgetting factor
# suits them all.
TOKENS, READS = 64.0, 64.0 * 4096
FORGET = 0.98  # weight of a step fifty steps ago: about a third
UNSURE = 10.0  # variance of each coefficient at the start, and at most later
OUTLIER = 3.0  # residuals beyond so many typical ones count as that many
CLOSE = 0.03  # a typical residual is taken to be at least this share of the step
WARM_UP = 8  # steps before any residual is called an outlier


class CostModel:
    """Seconds of a step: ``base + per_token * tokens + per_read * reads``.

    ``reads`` is the sum over a step's slices of query tokens times the cached cells each reads.
    Fitted by recursive least squares that forget (Haykin, Adaptive Filter Theory, chapter 10);
    residuals are clipped, so that one stalled step does not move it far. No coefficient is ever
    negative.

    Args:
        base, per_token, per_read: seconds to begin with.
    """

    def __init__(self, base: float = 2e-3, per_token: float = 1e-4, per_read: float = 1e-9) -> None:
        self._weights = [base, per_token * TOKENS, per_read * READS]
        self._spread = [[UNSURE * (i == j) for j in range(3)] for i in range(3)]
        self._typical = 0.0  # how far steps usually are from the line, in seconds
        self.observed = 0

    @property
    def base(self) -> float:
        """Seconds of a step before its first token."""
        return self._weights[0]

    @property
    def per_token(self) -> float:
        """Seconds of each token."""
        return self._weights[1] / TOKENS

    @property
    def per_read(self) -> float:
        """Seconds of each cell that one token reads."""
        return self._weights[2] / READS

    @property
    def coefficients(self) -> dict[str, float]:
        """The three of them by name, as the constructor takes them."""
        return {"base": self.base, "per_token": self.per_token, "per_read": self.per_read}

    def predict(self, tokens: float, reads: float) -> float:
        """Seconds of a step of so many tokens that read so many cells in all."""
        return self.base + self.per_token * tokens + self.per_read * reads

    def tokens_within(self, seconds: float, tokens: float, reads: float, context: float) -> int:
        """How many more tokens fit into a step of ``seconds`` that has ``tokens`` and ``reads``.

        Args:
            context: cells that each of the new tokens reads.
        """
        left = seconds - self.predict(tokens, reads)
        each = self.per_token + self.per_read * context
        if left <= 0:
            return 0
        return int(min(left / each, 1e9)) if each > 0 else 10**9

    def observe(self, tokens: float, reads: float, seconds: float) -> None:
        """A step has run: move the line towards it."""
        x = (1.0, tokens / TOKENS, reads / READS)
        spread, weights = self._spread, self._weights
        gain = [sum(spread[i][j] * x[j] for j in range(3)) for i in range(3)]
        total = FORGET + sum(x[i] * gain[i] for i in range(3))
        expected = sum(weights[i] * x[i] for i in range(3))
        error = clipped = seconds - expected
        if self.observed >= WARM_UP:
            most = OUTLIER * max(self._typical, CLOSE * expected)
            clipped = max(-most, min(most, error))
        # The typical error follows what was clipped as well, so that a lasting change is believed.
        share = 1 / min(self.observed + 1, 20)
        self._typical += share * (min(abs(error), 4 * abs(clipped) + 1e-6) - self._typical)
        for i in range(3):
            weights[i] = max(0.0, weights[i] + gain[i] / total * clipped)
        for i in range(3):
            for j in range(3):
                spread[i][j] = (spread[i][j] - gain[i] * gain[j] / total) / FORGET
        for i in range(3):  # what no step has shown for a while must not become boundless
            if spread[i][i] > UNSURE:
                factor = (UNSURE / spread[i][i]) ** 0.5
                for j in range(3):
                    spread[i][j] *= factor
                    spread[j][i] *= factor
        self.observed += 1
