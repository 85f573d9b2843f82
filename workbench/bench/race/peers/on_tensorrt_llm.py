"""TensorRT-LLM in the race: its reuse of blocks, cold and kept warm. Written for 1.2, on a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from by_async import AsyncPeer, Tokens
from wire import Question, serve

STEP = 8192  # tokens of one step
SHARE = 0.85  # of the memory that is free


class TensorRTLLM(AsyncPeer):
    """Modes: ``warm`` (a throw-away request per arrival) and ``prefix``.

    Its PyTorch backend. It offers no choice among a few tokens that costs as little as one token.
    """

    packages = ("tensorrt-llm", "torch")

    def __init__(self, settings: dict[str, Any]) -> None:
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig

        self._params = SamplingParams
        self._dtype = settings["dtype"]
        self._llm = LLM(
            model=settings["model"], skip_tokenizer_init=True, dtype=self._dtype,
            max_seq_len=settings["longest"], max_batch_size=settings["sequences"],
            max_num_tokens=STEP, enable_chunked_prefill=True,
            kv_cache_config=KvCacheConfig(
                enable_block_reuse=True, enable_partial_reuse=True, copy_on_partial_reuse=True,
                free_gpu_memory_fraction=SHARE,
            ),
            cuda_graph_config=CudaGraphConfig(
                max_batch_size=settings["sequences"], enable_padding=True
            ),
        )  # fmt: skip
        super().__init__(asyncio.new_event_loop())

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "PyTorch backend, reuse of whole and partial blocks, CUDA graphs, chunked "
            "prefill",
        }

    async def replies(
        self, key: int, ids: Sequence[int], question: Question | None
    ) -> AsyncIterator[Tokens]:
        """Add a request."""
        scored = question is not None and question.scored
        params = self._params(
            max_tokens=1 if question is None else question.tokens, ignore_eos=True, end_id=-1,
            pad_id=-1, detokenize=False, logprobs=1 if scored else None,
        )  # fmt: skip
        # Within the loop: it decides by that how it passes tokens on.
        request = self._llm.generate_async(list(ids), sampling_params=params, streaming=True)
        seen = 0
        try:
            async for result in request:
                output = result.outputs[0]
                new = list(output.token_ids[seen:])
                scores = output.logprobs[seen : seen + len(new)] if scored else []
                pairs = zip(new, scores, strict=scored)
                yield new, [found[token].logprob for token, found in pairs]
                seen += len(new)
        except asyncio.CancelledError:
            request.abort()
            raise

    def close(self) -> None:
        """End its worker."""
        self._llm.shutdown()
        super().close()


if __name__ == "__main__":
    serve(TensorRTLLM)
