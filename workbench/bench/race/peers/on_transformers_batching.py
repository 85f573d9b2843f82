"""transformers' continuous batching in the race: a paged cache with shared prefixes, kept warm."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import logging
from wire import Peer, Question, Reply, serve

PAGE = 32  # tokens; what is shared ends at the end of a page
STEP = 2048  # tokens of one step


class Batching(Peer):
    """One mode: a throw-away request of one token after every arrival."""

    packages = ("transformers", "torch")

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings["model"],
            dtype=getattr(torch, settings["dtype"]),
            attn_implementation="sdpa",
        ).eval()
        self._dtype = settings["dtype"]
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE, num_blocks=2 * settings["cells"] // PAGE, max_batch_tokens=STEP,
                max_requests_per_batch=4, return_logprobs=True,
            ),
        )  # fmt: skip
        self._manager.start()
        self._context: list[int] = []
        self._prompt: list[int] = []

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "sdpa over pages of 32 tokens, shared prefixes, steps of 2,048 tokens",
        }

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the pages stay."""
        self._generate(ids, 1)
        self._context = ids

    def begin(self, mode: str, length: int, room: int) -> None:
        """The pages hold the context."""
        self._prompt = self._context[:length]

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A throw-away request."""
        self._prompt = self._prompt + ids
        self._generate(self._prompt, 1)

    def ask(self, mode: str, question: Question) -> Reply:
        """A request for all of it."""
        return self._generate(self._prompt + question.ids, question.tokens)

    def _generate(self, ids: list[int], tokens: int) -> Reply:
        name = self._manager.add_request(ids, max_new_tokens=tokens, streaming=True)
        first: float | None = None
        for output in self._manager.request_id_iter(name):
            first = first or time.perf_counter()
            if output.error is not None:
                raise ValueError(output.error)
            if output.is_finished():
                return Reply(output.generated_tokens, first, output.logprobs)
        msg = "its request ended without an answer"
        raise ValueError(msg)

    def close(self) -> None:
        """Stop its thread."""
        self._manager.stop(block=True, timeout=5)


if __name__ == "__main__":
    serve(Batching)
