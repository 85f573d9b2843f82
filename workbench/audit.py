"""An answer computed again by plain transformers, from the tokens it was computed from."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import QuestionError

if TYPE_CHECKING:
    from workbench.answer import Answer
    from workbench.engine.engine import StepEngine

CHUNK = 256  # tokens of a forward; between two of them the engine goes on with its own steps


@dataclass(frozen=True)
class Audit:
    """What plain transformers makes of an answer's tokens, beside what the engine made of them.

    Attributes:
        answer: the answer.
        num_tokens: the tokens that were read again: the context, then the question.
        logprobs: plain transformers' natural-log probability of each token of the answer.
        behind: for each of them, by how many nats the token is behind the one that plain
            transformers finds likeliest; 0 where it is that one. Of a closed answer, or one that
            was drawn, these say how likely the model found it, not whether it is right.
        probabilities: of a closed answer, each choice's share as plain transformers has it.
    """

    answer: Answer = field(repr=False)
    num_tokens: int
    logprobs: list[float]
    behind: list[float]
    probabilities: dict[str, float]

    @property
    def max_difference(self) -> float:
        """The largest difference of a token's log-probability from the engine's, in nats.

        Rounding alone gives some: hundredths to a few tenths in bfloat16, 1e-5 in float32.
        """
        pairs = zip(self.answer.logprobs, self.logprobs, strict=True)
        return max((abs(got - plain) for got, plain in pairs), default=0.0)

    def __repr__(self) -> str:
        own = len(self.logprobs)
        what = f"{own} token{'s' * (own != 1)} after {self.num_tokens:,}"
        said = [f"log-probabilities differ by at most {self.max_difference:.2g}"]
        if self.probabilities:
            said += [
                f"{choice!r} {self.answer.probabilities[choice]:.3f}, here {share:.3f}"
                for choice, share in self.probabilities.items()
            ]
        elif any(self.behind):
            num = sum(behind > 0 for behind in self.behind)
            verb = "is" if num == 1 else "are"
            said.append(f"{num} {verb} not the likeliest here, by {max(self.behind):.2g} at most")
        else:
            said.append("each is the likeliest here too")
        return f"Audit({what}: {'; '.join(said)})"


def audit(engine: StepEngine, answer: Answer) -> Audit:
    """Read an answer's tokens with transformers' own attention and cache; see `Engine.audit`."""
    _check(engine, answer)
    ids = answer.input_ids
    choices = list(answer.probabilities)
    endings = engine.tokens.choices(choices) if choices else [answer.token_ids]
    cache = _read(engine, ids[:-1])
    scores = [_score(engine, cache, [ids[-1], *ending]) for ending in endings]
    sums = [math.fsum(logprobs) for logprobs, _ in scores] if choices else []
    shares = torch.softmax(torch.tensor(sums, dtype=torch.float64), dim=0).tolist()
    own = choices.index(answer.choice) if answer.choice is not None else 0
    return Audit(answer, len(ids), *scores[own], dict(zip(choices, shares, strict=True)))


def _check(engine: StepEngine, answer: Answer) -> None:
    if not answer.done:
        msg = "the answer is not complete; wait for it with answer.result()"
        raise QuestionError(msg)
    if not answer.token_ids:
        reason = f" ({answer.error})" if answer.error is not None else ""
        msg = f"the answer has no tokens to compute again{reason}"
        raise QuestionError(msg)
    most = engine.decoder.max_positions
    if answer.position >= 0 and len(answer.input_ids) + len(answer.token_ids) > most:
        msg = f"the answer's log is longer than the model's {most:,} positions"
        raise QuestionError(msg)


def _read(engine: StepEngine, ids: list[int]) -> Any:
    """Transformers' own cache after these tokens, a chunk after another."""
    from transformers import DynamicCache

    decoder = engine.decoder
    cache = DynamicCache(config=decoder.config)

    def forward(chunk: list[int]) -> None:
        with decoder.as_plain() as model:
            model(torch.tensor([chunk], device=decoder.device), past_key_values=cache,
                  use_cache=True, logits_to_keep=1)  # fmt: skip

    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        engine.call(functools.partial(forward, chunk))
    return cache


def _score(engine: StepEngine, cache: Any, ids: list[int]) -> tuple[list[float], list[float]]:
    """Log-probabilities of all but the first token after the cache's, and how far each is behind.

    The cache stays as it is.
    """
    decoder = engine.decoder

    def forward() -> tuple[list[float], list[float]]:
        with decoder.as_plain() as model:
            logits = model(torch.tensor([ids[:-1]], device=decoder.device), use_cache=True,
                           past_key_values=copy.deepcopy(cache)).logits[0]  # fmt: skip
            scores = torch.log_softmax(logits.float(), dim=-1)
            own = scores.gather(1, torch.tensor(ids[1:], device=scores.device)[:, None])[:, 0]
            return own.tolist(), (scores.amax(dim=-1) - own).tolist()

    return engine.call(forward)
