"""OpenVINO GenAI in the race: continuous batching with prefix caching, cold and kept warm.

optimum-intel converts the model, weights as they are in bfloat16, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from by_request import Piece, RequestPeer
from wire import Question, serve

BLOCK = 32  # tokens, fixed in OpenVINO's CPU plugin
STEP = 2048  # tokens of one step


class OpenVINO(RequestPeer):
    """Modes: ``warm`` (a throw-away request per arrival) and ``prefix``."""

    packages = ("openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel")

    def __init__(self, settings: dict[str, Any]) -> None:
        import numpy
        import openvino
        import openvino_genai

        folder = Path(settings["folder"]) / "ir"
        convert = [sys.executable, __file__, "--convert", settings["model"], str(folder)]
        if not folder.exists():
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
        scheduler.max_num_seqs = settings["sequences"]
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU",
            {
                "INFERENCE_PRECISION_HINT": short, "KV_CACHE_PRECISION": short,
                "INFERENCE_NUM_THREADS": settings["threads"], "PERFORMANCE_HINT": "LATENCY",
            },
        )  # fmt: skip
        self._number = 0
        self._requests: dict[int, tuple[Any, bool]] = {}  # handles, and whether they are scored

    def about(self) -> dict[str, Any]:
        """Types and settings."""
        return {
            "weights": self._dtype,
            "cache": self._dtype,
            "settings": "continuous batching with prefix caching, steps of 2,048 tokens",
        }

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the prefix cache keeps the rest."""
        self.prompt = self.context = ids
        self.read()

    def submit(self, ids: Sequence[int], question: Question | None = None) -> int:
        """Add a request."""
        scored = question is not None and question.scored
        config = self._genai.GenerationConfig()
        config.max_new_tokens = 1 if question is None else question.tokens
        config.do_sample = False
        config.ignore_eos = True
        config.set_eos_token_id(0)  # it insists on one
        config.logprobs = 1 if scored else 0
        self._number += 1
        prompt = self._openvino.Tensor(self._numpy.array([ids], self._numpy.int64))
        handle = self._pipeline.add_request(self._number, prompt, config)
        self._requests[self._number] = handle, scored
        return self._number

    def step(self) -> Iterator[Piece]:
        """A step of all requests."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        for key, (handle, scored) in list(self._requests.items()):
            if handle.can_read():
                for output in handle.read().values():
                    logprobs = output.generated_log_probs if scored else ()
                    yield Piece(key, output.generated_ids, logprobs)
            elif handle.get_status() != self._genai.GenerationStatus.RUNNING:
                del self._requests[key]

    def cancel(self, keys: Sequence[int]) -> None:
        """Stop them, and step until the pipeline has noticed."""
        for key in keys:
            if key in self._requests:
                self._requests.pop(key)[0].cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()


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
