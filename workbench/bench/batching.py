"""transformers' continuous batching on the same tokens and weights: pages that prompts share.

It answers requests of whole prompts. A throw-away request after every arrival keeps the pages of a
session's context, and a question's request finds them. It is for two tokens: what a request
computes in the step that ends it is not kept for others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from workbench.bench.peers import Reply
from workbench.errors import WorkbenchError

PAGE = 32  # tokens; what is shared ends at the end of a page
# transformers 5.17.0 knows the older name alone.
NEW = hasattr(ContinuousBatchingConfig, "page_size")
PAGES: dict[str, Any] = {"page_size" if NEW else "block_size": PAGE}
STEP = 2048  # tokens of one step
PATIENCE_S = 120.0  # for one token: the first step of a kind may be compiled


class Batching:
    """One session's context, kept warm; a thread of its own computes."""

    name = "transformers, continuous batching"

    def __init__(self, model: PreTrainedModel, cells: int) -> None:
        """Take a transformers decoder, for itself alone, and room for ``cells`` tokens."""
        core: Any = model.eval()
        self._manager = core.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                **PAGES, num_blocks=2 * cells // PAGE, max_batch_tokens=STEP,
                max_requests_per_batch=4, return_logprobs=True,
            ),
        )  # fmt: skip
        self._manager.start()
        self._context: list[int] = []

    @property
    def length(self) -> int:
        """Tokens of the context."""
        return len(self._context)

    def advance(self, ids: Sequence[int]) -> None:
        """Take more of the context in."""
        self._context += ids
        self._request([], 2)

    def ask(self, question: Sequence[int], max_tokens: int) -> Reply:
        """Answer greedily with exactly ``max_tokens`` tokens."""
        return self._request(question, max_tokens)[0]

    def score(self, question: Sequence[int], answer: Sequence[int]) -> list[float]:
        """Natural-log probabilities of the tokens of ``answer``, as far as it would give them."""
        reply, logprobs = self._request(question, len(answer))
        same = [mine == theirs for mine, theirs in zip(reply.token_ids, answer, strict=True)]
        return logprobs[: same.index(False) if False in same else len(same)]

    def close(self) -> None:
        """End its thread."""
        self._manager.stop(block=True, timeout=5)

    def _request(self, ids: Sequence[int], tokens: int) -> tuple[Reply, list[float]]:
        began = time.perf_counter()
        request = self._manager.add_request(
            [*self._context, *ids], max_new_tokens=tokens, streaming=True
        )
        first = None
        while True:
            output = self._manager.get_result(request_id=request, timeout=1.0)
            now = time.perf_counter()
            if output is None:
                if not self._manager.is_running() or now - began > PATIENCE_S:
                    msg = f"expected an answer, got none in {now - began:,.0f} s"
                    raise WorkbenchError(msg)
                continue
            if output.error is not None:
                raise WorkbenchError(str(output.error))
            first = first or (now if output.generated_tokens else None)
            if output.is_finished():
                times = ((first or now) - began) * 1e3, (now - began) * 1e3
                return Reply(list(output.generated_tokens), *times), list(output.logprobs or ())
