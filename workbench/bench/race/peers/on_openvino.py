"""OpenVINO GenAI in the race: continuous batching with prefix caching, cold and kept warm.

optimum-intel converts the model, weights as they are in bfloat16, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from wire import Peer, Question, Reply, serve

BLOCK = 32  # tokens, fixed in OpenVINO's CPU plugin
STEP = 2048  # tokens of one step


class OpenVINO(Peer):
    """Modes: ``warm`` (a throw-away request per arrival) and ``prefix``."""

    packages = ("openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel")

    def __init__(self, settings: dict[str, Any]) -> None:
        import numpy
        import openvino
        import openvino_genai

        folder = Path(settings["folder"]) / "ir"
        convert = [sys.executable, __file__, "--convert", settings["model"], str(folder)]
        done = subprocess.run(convert, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            msg = f"the conversion with optimum-intel failed and said: {said[-1][:300]}"
            raise ValueError(msg)
        self._numpy, self._openvino, self._genai = numpy, openvino, openvino_genai
        short = {"bfloat16": "bf16", "float32": "f32"}[settings["dtype"]]
        self._dtype = settings["dtype"]
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        # The context, what a trial adds, and blocks of earlier trials until they are the oldest.
        scheduler.num_kv_blocks = 4 * settings["cells"] // BLOCK
        scheduler.max_num_batched_tokens = STEP
        scheduler.max_num_seqs = 4
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU",
            {
                "INFERENCE_PRECISION_HINT": short, "KV_CACHE_PRECISION": short,
                "INFERENCE_NUM_THREADS": settings["threads"], "PERFORMANCE_HINT": "LATENCY",
            },
        )  # fmt: skip
        self._number = 0
        self._context: list[int] = []
        self._prompt: list[int] = []

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "continuous batching with prefix caching, steps of 2,048 tokens",
        }

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the prefix cache keeps the rest."""
        self._generate(ids, 1)
        self._context = ids

    def begin(self, mode: str, length: int, room: int) -> None:
        """The prefix cache holds the context."""
        self._prompt = self._context[:length]

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A throw-away request, or nothing yet."""
        self._prompt = self._prompt + ids
        if mode == "warm":
            self._generate(self._prompt, 1)

    def ask(self, mode: str, question: Question) -> Reply:
        """A request for all of it."""
        return self._generate(self._prompt + question.ids, question.tokens, question.scored)

    def _generate(self, ids: list[int], tokens: int, scored: bool = False) -> Reply:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.do_sample = False
        config.ignore_eos = True
        config.set_eos_token_id(0)  # it insists on one
        config.logprobs = 1 if scored else 0
        self._number += 1
        prompt = self._openvino.Tensor(self._numpy.array([ids], self._numpy.int64))
        handle = self._pipeline.add_request(self._number, prompt, config)
        first: float | None = None
        found: list[int] = []
        logprobs: list[float] = []
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            if handle.can_read():
                first = first or time.perf_counter()
                for output in handle.read().values():
                    found += output.generated_ids
                    logprobs += output.generated_log_probs
        return Reply(found, first, logprobs if scored else None)


def convert(model: str, folder: str) -> None:
    """A folder of ``save_pretrained`` to OpenVINO's format, with the tokenizer it wants."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    converted = OVModelForCausalLM.from_pretrained(
        model, export=True, compile=False, load_in_8bit=False, use_cache=True, stateful=True
    )
    converted.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    parts = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, part in zip(("tokenizer", "detokenizer"), parts, strict=True):
        openvino.save_model(part, Path(folder) / f"openvino_{name}.xml")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--convert"]:
        convert(*sys.argv[2:])
    else:
        serve(OpenVINO)
