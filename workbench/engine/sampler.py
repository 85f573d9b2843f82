"""From logits to a token, or to the probabilities of a few fixed answers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import torch

from workbench.engine.logits import Logits
from workbench.errors import ModelError, QuestionError

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Sampling:
    """How an answer's tokens are picked.

    Attributes:
        max_tokens: the most tokens an answer may have.
        stop: texts that end it, themselves left out.
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens that together reach this probability.
        seed: makes sampling repeatable; None draws a fresh one.
    """

    max_tokens: int = 32
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        def expect(ok: bool, name: str, what: str) -> None:
            if not ok:
                msg = f"{name}={getattr(self, name)!r}: expected {what}"
                raise QuestionError(msg)

        whole = isinstance(self.max_tokens, Integral) and not isinstance(self.max_tokens, bool)
        seeded = isinstance(self.seed, Integral) and -(2**63) <= self.seed < 2**64
        expect(whole and self.max_tokens >= 1, "max_tokens", "a whole number of at least 1")
        expect(all(isinstance(s, str) and s for s in self.stop), "stop", "non-empty texts")
        warm = isinstance(self.temperature, Real) and 0 <= self.temperature < math.inf
        expect(warm, "temperature", "a number of at least 0")
        expect(isinstance(self.top_p, Real) and 0 < self.top_p <= 1, "top_p", "a number in (0, 1]")
        seeds = self.seed is None or seeded
        expect(seeds, "seed", "a whole number of at most 64 bits, or None")
        object.__setattr__(self, "max_tokens", int(self.max_tokens))  # numpy's whole numbers too
        object.__setattr__(self, "seed", None if self.seed is None else int(self.seed))


class Sampler:
    """One answer's stream of tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator()
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    def pick(self, logits: Logits, row: int) -> tuple[int, float]:
        """A token id after one row, and the model's own natural-log probability of it.

        Raises:
            QuestionError: the row has numbers that are not finite.
        """
        if self._generator is None:
            best = logits.scored(row)
            return best.token, best.logprob
        values = logits.row(row)
        weights = torch.softmax(values / self._sampling.temperature, dim=-1)
        if self._sampling.top_p < 1:
            ordered, order = weights.sort(descending=True)
            # A token stays if those before it have not reached top_p yet.
            beyond = ordered.cumsum(0) - ordered >= self._sampling.top_p
            weights[order[beyond]] = 0
        token = int(torch.multinomial(weights, 1, generator=self._generator))
        return token, float(torch.log_softmax(values, dim=-1)[token])


def chances_of(logprobs: list[list[float]]) -> list[float]:
    """Probabilities of closed answers among each other.

    Args:
        logprobs: per choice, the natural-log probabilities of its tokens.

    Returns:
        The softmax of their sums.

    Raises:
        QuestionError: the model gives none of them any probability.
    """
    totals = torch.tensor([math.fsum(tokens) for tokens in logprobs], dtype=torch.float64)
    if not bool(totals.max() > -math.inf):
        msg = "the model gives none of the choices any probability; expected others"
        raise QuestionError(msg)
    return torch.softmax(totals, dim=0).tolist()  # type: ignore[no-any-return]


def stored_temperature(folder: Path) -> float:
    """What divides choices' log-probabilities to calibrate them, as ``folder`` says; else 1.

    Raises:
        ModelError: its ``calibration.json`` has no temperature above 0.
    """
    file = folder / CALIBRATION
    if not file.exists():
        return 1.0
    try:
        temperature = float(json.loads(file.read_text())["temperature"])
    except (ValueError, KeyError, TypeError) as error:
        temperature = math.nan
        cause: Exception | None = error
    else:
        cause = None
    if not 0 < temperature < math.inf:
        msg = f'{file}: expected {{"temperature": 1.2}} with a number above 0; repair or remove it'
        raise ModelError(msg) from cause
    return temperature
