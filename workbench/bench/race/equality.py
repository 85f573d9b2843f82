"""Whether an answer is right: the judge, float32, scores it; nobody who is wrong is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.bench.race.process import PeerFailed, PeerProcess
from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class Judge:
    """Plain transformers in float32, which has read the whole context.

    Attributes:
        peer: its process.
        bound: the largest difference of log-probabilities that is rounding.
        timeout: seconds.
    """

    peer: PeerProcess
    bound: float
    timeout: float

    def score(self, length: int, ids: Sequence[int], answer: Sequence[int]) -> dict[str, Any]:
        """Log-probabilities of ``answer`` after ``length`` tokens of the context and ``ids``.

        With them come the likeliest token at each step and its log-probability.

        Raises:
            WorkbenchError: the judge cannot go on.
        """
        try:
            return self.peer.ask(
                "score", self.timeout, length=length, ids=list(ids), answer=list(answer)
            )
        except PeerFailed as error:
            msg = f"the judge, plain transformers, failed: {error}"
            raise WorkbenchError(msg) from error

    def open_answer(
        self,
        found: dict[str, Any],
        length: int,
        read: Sequence[int],
        stale: Sequence[int] | None,
        question: Sequence[int],
    ) -> dict[str, Any]:
        """Compare a greedy answer's log-probabilities, choices and margins.

        Raises:
            PeerFailed: it does not have as many log-probabilities as tokens.

        Args:
            found: the answer, with its ``ids`` and ``logprobs``, which may be None.
            length: tokens of the context before ``read``.
            read: bars that the answer sees.
            stale: the same without the last one, to state what the comparison can see.
            question: its tokens.
        """
        ids = found["ids"]
        if found["logprobs"] and len(found["logprobs"]) != len(ids):
            msg = f"expected {len(ids)} log-probabilities, got {len(found['logprobs'])}"
            raise PeerFailed(msg)
        truth = self.score(length, [*read, *question], ids)
        difference = missing = None
        if found["logprobs"]:
            difference = largest(found["logprobs"], truth["logprobs"])
        if stale is not None:
            without = self.score(length, [*stale, *question], ids)
            missing = largest(truth["logprobs"], without["logprobs"])
        disagreements = [
            {
                "step": step,
                "token": token,
                "judge_token": truth["best"][step],
                "margin": truth["best_logprobs"][step] - truth["logprobs"][step],
            }
            for step, token in enumerate(ids)
            if token != truth["best"][step]
        ]
        # A token that is behind the judge's own by less than twice the bound may still be greedy.
        agrees = (difference is None or difference <= self.bound) and all(
            item["margin"] <= 2 * self.bound for item in disagreements
        )
        return {
            "tokens": len(ids), "distinct_tokens": len(set(ids)), "max_difference": difference,
            "difference_if_the_last_bar_were_missing": missing, "disagreements": disagreements,
            "bound": self.bound, "agrees": agrees,
        }  # fmt: skip

    def choice(
        self,
        found: dict[str, Any],
        choices: Sequence[int],
        length: int,
        read: Sequence[int],
        question: Sequence[int],
    ) -> dict[str, Any]:
        """Compare the log-odds of two closed answers, one token each; of an engine that only names
        one, by how much the judge prefers the other.

        Raises:
            PeerFailed: it does not have as many chances, or named none of them.
        """
        chances, named = found["chances"], list(found["ids"])
        if len(chances or choices) != len(choices) or (chances is None and named[0] not in choices):
            msg = f"expected chances of {list(choices)} or one of them, got {chances or named}"
            raise PeerFailed(msg)
        ids = [*read, *question]
        first, second = (self.score(length, ids, [token])["logprobs"][0] for token in choices)
        difference, disagreements = None, []
        if chances is not None:
            ours = torch.tensor(chances, dtype=torch.float64).log()
            difference = abs(float(ours[0] - ours[1]) - (first - second))
        best = choices[first < second]
        if chances is None and named[0] != best:
            margin = abs(first - second)
            disagreements = [{"step": 0, "token": named[0], "judge_token": best, "margin": margin}]
        return {
            "tokens": 1, "distinct_tokens": 1, "max_difference": difference,
            "difference_if_the_last_bar_were_missing": None, "disagreements": disagreements,
            "bound": self.bound,
            "agrees": (difference is None or difference <= self.bound)
            and all(item["margin"] <= 2 * self.bound for item in disagreements),
        }  # fmt: skip


def compared(compare: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compare several answers, attempt 0; if one is off by little, others, attempt 1.

    Of many answers one may be off by more than the bound from rounding alone, though not by twice
    as much, and then others are not. The checks of a comparison that was made again say so.
    """
    checks = compare(0)
    if agreed(checks) or any(_far(check) for check in checks):
        return checks
    return [*(check | {"made_again": True} for check in checks), *compare(1)]


def _far(check: dict[str, Any]) -> bool:
    """Whether an answer is off by more than rounding can explain."""
    most = 2 * check["bound"]
    margins = [item["margin"] for item in check["disagreements"]]
    return (check["max_difference"] or 0.0) > most or max(margins, default=0.0) > most


def agreed(checks: Sequence[dict[str, Any]]) -> bool:
    """Whether all agree, apart from comparisons that were made again; none is no agreement."""
    return bool(checks) and all(check["agrees"] or check.get("made_again") for check in checks)


def largest(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))
