"""transformers' continuous batching in the race: a paged cache with shared prefixes, kept warm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from by_request import Piece, RequestPeer
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import logging
from wire import Question, serve

PAGE = 32  # tokens; what is shared ends at the end of a page
# transformers 5.17.0 knows the older name alone.
NEW = hasattr(ContinuousBatchingConfig, "page_size")
PAGES: dict[str, Any] = {"page_size" if NEW else "block_size": PAGE}
STEP = 2048  # tokens of one step
POLL_S = 0.005  # for a token, before looking at what else is due


class Batching(RequestPeer):
    """One mode: a throw-away request after every arrival.

    It is for two tokens, of which one is waited for: what a request computes in the step that ends
    it, transformers does not keep for others.
    """

    packages = ("transformers", "torch")

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings["model"],
            dtype=getattr(torch, settings["dtype"]),
            attn_implementation="sdpa",  # on a GPU it takes FlashAttention where that is installed
        ).to(settings["device"]).eval()  # fmt: skip
        self._dtype = settings["dtype"]
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                **PAGES, num_blocks=2 * settings["cells"] // PAGE, max_batch_tokens=STEP,
                max_requests_per_batch=settings["sequences"], return_logprobs=True,
            ),
        )  # fmt: skip
        self._manager.start()
        self._known: dict[str, int] = {}  # tokens of each request so far

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "sdpa over pages of 32 tokens, shared prefixes, steps of 2,048 tokens",
        }

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the pages stay."""
        self.prompt = self.context = ids
        self.read()

    def read(self) -> None:
        """Have the prompt computed, and no more."""
        key = self.submit(self.prompt)
        self.answers([key], [None])
        self.cancel([key])

    def submit(self, ids: Sequence[int], question: Question | None = None) -> str:
        """Add a request; it has a thread of its own that computes."""
        tokens = 2 if question is None else question.tokens
        name: str = self._manager.add_request(list(ids), max_new_tokens=tokens, streaming=True)
        self._known[name] = 0
        return name

    def step(self) -> Iterator[Piece]:
        """What has come since; waits a moment for it."""
        output = self._manager.get_result(timeout=POLL_S)
        if output is None:
            if not self._manager.is_running():
                msg = "its thread has ended"
                raise ValueError(msg)
            return
        if output.error is not None:
            raise ValueError(output.error)
        name, known = output.request_id, self._known.get(output.request_id)
        if known is None:
            return  # cancelled
        self._known[name] = len(output.generated_tokens)
        yield Piece(name, output.generated_tokens[known:], (output.logprobs or ())[known:])
        if output.is_finished():
            del self._known[name]

    def cancel(self, keys: Sequence[str]) -> None:
        """Take them back."""
        for name in keys:
            self._manager.cancel_request(name)
            self._known.pop(name, None)

    def close(self) -> None:
        """Stop its thread."""
        self._manager.stop(block=True, timeout=5)


if __name__ == "__main__":
    serve(Batching)
