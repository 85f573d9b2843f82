"""Whether the chances of choices mean what they say, and the one number that makes them.

A closed question gives each choice a log chance (the sum over its tokens); their softmax is what
the engine reports. Divided by a temperature first, fitted on every other held-out question, the
likeliest choice's chance comes as close as one number can bring it to how often it is right. The
order of choices never changes. ``calibration.json`` beside the weights holds the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10


@dataclass(frozen=True)
class Closed:
    """One closed question: the log chance of each choice, and which is the truth."""

    chances: tuple[float, ...]
    truth: int


def calibrate(asked: Sequence[Closed]) -> dict[str, Any]:
    """Fit on every other question, measure on the rest: temperature, errors, reliability table."""
    fitted, rest = asked[::2], asked[1::2]
    temperature = fit(fitted)
    return {
        "temperature": round(temperature, 4),
        "questions": len(rest),
        "error_before": round(expected_error(rest, 1.0), 4),
        "error_after": round(expected_error(rest, temperature), 4),
        "reliability": reliability(rest, temperature),
    }


def fit(asked: Sequence[Closed]) -> float:
    """The temperature between 1/8 and 8 at which the truths are likeliest."""
    tried = 2.0 ** np.linspace(-3, 3, 121)
    return float(tried[np.argmin([_surprise(asked, value) for value in tried])])


def expected_error(asked: Sequence[Closed], temperature: float) -> float:
    """The mean gap between a chance and how often it is right, over `BINS` bins of chances."""
    return float(
        sum(
            b["questions"] * abs(b["said"] - b["right"]) for b in reliability(asked, temperature)
        ) / max(1, len(asked))
    )  # fmt: skip


def reliability(asked: Sequence[Closed], temperature: float) -> list[dict[str, float]]:
    """Bins of the likeliest choice's chance: how many, the mean chance said, the share right."""
    said, right = [], []
    for question in asked:
        chances = _chances(question, temperature)
        said.append(chances.max())
        right.append(chances.argmax() == question.truth)
    where = np.minimum((np.array(said) * BINS).astype(int), BINS - 1)
    made = []
    for n in sorted(set(where.tolist())):
        of = where == n
        made.append(
            {
                "from": n / BINS,
                "questions": int(of.sum()),
                "said": round(float(np.array(said)[of].mean()), 4),
                "right": round(float(np.array(right)[of].mean()), 4),
            }
        )
    return made


def _chances(question: Closed, temperature: float) -> np.ndarray:
    logs = np.array(question.chances) / temperature
    grown = np.exp(logs - logs.max())
    return np.asarray(grown / grown.sum())


def _surprise(asked: Sequence[Closed], temperature: float) -> float:
    return -sum(float(np.log(_chances(q, temperature)[q.truth] + 1e-12)) for q in asked)
