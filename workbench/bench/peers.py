"""Plain transformers on the same tokens and weights: what an ask costs without sessions.

`Stateless` reads the whole context again for every question, as a server without a prefix cache
does. `Warm` holds the context in a cache by hand, which is the best a careful person can do with
transformers alone: prefill the question on it, decode, and cut the cache back. `WarmStatic` does it
in a preallocated cache, where no forward copies the keys and values.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

CHUNK = 512  # tokens of one forward while a cache is filled
MOST_COMPILED = 256  # kinds of forwards


@dataclass(frozen=True)
class Reply:
    """A greedy answer; milliseconds from the question to its first and to its last token."""

    token_ids: list[int]
    ttft_ms: float
    total_ms: float


class Stateless:
    """The whole context and the question, prefilled for every question."""

    name = "transformers, stateless"

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a transformers decoder in evaluation mode."""
        self._model = model

    def ask(self, context: Sequence[int], question: Sequence[int], max_tokens: int) -> Reply:
        """Answer greedily with exactly ``max_tokens`` tokens."""
        return _decode(self._model, DynamicCache(), [*context, *question], max_tokens)

    def score(
        self, context: Sequence[int], question: Sequence[int], answer: Sequence[int]
    ) -> list[float]:
        """Natural-log probability of each token of ``answer``, from one forward over it all."""
        ids = [*context, *question, *answer[:-1]]
        return _logprobs(_forward(self._model, None, ids, keep=len(answer)), answer)


class Warm:
    """The context kept in a `DynamicCache` between questions."""

    name = "transformers, kept warm"

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a transformers decoder in evaluation mode; the context is empty."""
        self._model: Any = model
        self._reader = model
        self._cache: Any = DynamicCache(config=model.config)
        self.length = 0

    def advance(self, ids: Sequence[int]) -> None:
        """Take more of the context in."""
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            _forward(self._reader, self._cache, chunk)
            self.length += len(chunk)
        if self._reader.device.type == "cuda":
            torch.cuda.synchronize()  # it has been read when it says so

    def forget(self, num_tokens: int) -> None:
        """Cut the context's last tokens off."""
        self._cut(num_tokens)
        self.length -= num_tokens

    def ask(self, question: Sequence[int], max_tokens: int) -> Reply:
        """Answer greedily with exactly ``max_tokens`` tokens; cutting back is not timed."""
        reply = _decode(self._model, self._cache, question, max_tokens)
        self._cut(len(question) + max_tokens - 1)
        return reply

    def score(self, question: Sequence[int], answer: Sequence[int]) -> list[float]:
        """Natural-log probability of each token of ``answer`` after the question."""
        ids = [*question, *answer[:-1]]
        logits = _forward(self._model, self._cache, ids, keep=len(answer))
        self._cut(len(ids))
        return _logprobs(logits, answer)

    def _cut(self, num_tokens: int) -> None:
        if num_tokens:
            self._cache.crop(-num_tokens)


class WarmStatic(Warm):
    """The context kept in a `StaticCache`, which attends over its whole length under a mask."""

    name = "transformers, kept warm, static"

    def __init__(self, model: PreTrainedModel, warm: Warm, room: int) -> None:
        """Copy the context of ``warm``, and leave space for ``room`` tokens beyond it."""
        self._model = self._reader = model
        self.length = warm.length
        self._cache = StaticCache(model.config, max_cache_len=warm.length + room)
        for index, layer in enumerate(warm._cache.layers):
            self._cache.update(layer.keys, layer.values, index)

    def _cut(self, num_tokens: int) -> None:
        for layer in self._cache.layers:
            layer.cumulative_length.sub_(num_tokens)


class WarmCompiled(WarmStatic):
    """A `WarmStatic` whose questions and answers run compiled, on a GPU as CUDA graphs.

    Data that arrives comes in any number of tokens, each of which would be compiled anew, so it is
    read as it is.
    """

    name = "transformers, kept warm, static, compiled"

    def __init__(self, model: PreTrainedModel, warm: Warm, room: int) -> None:
        """Copy the context of ``warm``, and leave space for ``room`` tokens beyond it."""
        super().__init__(model, warm, room)
        # Each cache is compiled for; beyond so many, torch would run it as it is without a word.
        torch._dynamo.config.recompile_limit = MOST_COMPILED
        self._model = torch.compile(model, mode="reduce-overhead", dynamic=False)


@torch.inference_mode()
def _forward(model: PreTrainedModel, cache: Any, ids: Sequence[int], keep: int = 1) -> Tensor:
    """Logits ``[keep, vocab]`` of the last tokens."""
    out = model(
        input_ids=torch.tensor([ids], device=model.device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=keep,
    )
    return out.logits[0]


def _decode(model: PreTrainedModel, cache: Any, ids: Sequence[int], max_tokens: int) -> Reply:
    began = time.perf_counter()
    tokens = [int(_forward(model, cache, ids)[-1].argmax())]
    first = time.perf_counter()
    while len(tokens) < max_tokens:
        tokens.append(int(_forward(model, cache, tokens[-1:])[-1].argmax()))
    ended = time.perf_counter()
    return Reply(tokens, (first - began) * 1e3, (ended - began) * 1e3)


def _logprobs(logits: Tensor, answer: Sequence[int]) -> list[float]:
    rows = torch.log_softmax(logits.float(), dim=-1)
    return [float(rows[index, token]) for index, token in enumerate(answer)]
