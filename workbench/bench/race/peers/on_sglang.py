"""SGLang in the race: its radix cache, cold and kept warm. Written for 0.5.23, on a GPU.

Its sessions are not raced: a streaming one cannot forget a question, and one of the other kind
reads the same radix cache as requests do.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

from by_async import AsyncPeer, Tokens
from wire import Question, serve

SPARE = 64  # tokens of a context beyond the longest sequence


class SGLang(AsyncPeer):
    """Modes: ``warm`` (a throw-away request per arrival) and ``prefix``."""

    packages = ("sglang", "sglang-kernel", "sgl-kernel", "flashinfer-python", "torch")

    def __init__(self, settings: dict[str, Any]) -> None:
        import sglang

        self._dtype = settings["dtype"]
        self._engine = sglang.Engine(
            model_path=settings["model"], skip_tokenizer_init=True, dtype=self._dtype,
            context_length=settings["longest"] + SPARE, max_running_requests=settings["sequences"],
            random_seed=0, log_level="error",
        )  # fmt: skip
        super().__init__(self._engine.loop)

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "radix cache, its own choice of kernels and graphs; a choice is the "
            "likeliest label by its log-probabilities",
        }

    async def replies(
        self, key: int, ids: Sequence[int], question: Question | None
    ) -> AsyncIterator[Tokens]:
        """Add a request. Log-probabilities are of new tokens alone: the prefix stays cached."""
        choices = None if question is None else question.choices
        scored = question is not None and question.scored
        # It ends all requests whose names begin so; names are equally long.
        name = f"{key:09d}"
        stream = await self._engine.async_generate(
            input_ids=list(ids),
            sampling_params={
                "temperature": 0.0, "ignore_eos": True,
                "max_new_tokens": 1 if question is None else question.tokens,
            },
            return_logprob=scored or choices is not None, token_ids_logprob=choices,
            stream=True, rid=name,
        )  # fmt: skip
        seen = 0
        try:
            async for output in stream:
                if choices is not None:
                    yield self._chosen(output["meta_info"], choices)
                    continue
                new = list(output["output_ids"][seen:])
                logprobs = output["meta_info"].get("output_token_logprobs", ()) if scored else ()
                yield new, [entry[0] for entry in logprobs[seen : seen + len(new)]]
                seen += len(new)
        except asyncio.CancelledError:
            self._engine.tokenizer_manager.abort_request(rid=name)
            raise

    def _chosen(self, meta: dict[str, Any], choices: Sequence[int]) -> Tokens:
        """The likeliest of the labels, and its log-probability among all tokens."""
        found = {token: logprob for logprob, token, *_ in meta["output_token_ids_logprobs"][0]}
        best = max(choices, key=lambda token: found.get(token, -math.inf))
        return [best], [found[best]]

    def close(self) -> None:
        """End its processes."""
        self._engine.shutdown()
        super().close()


if __name__ == "__main__":
    serve(SGLang)
