"""Plain transformers in the race: stateless, kept warm in two kinds of cache, and the judge."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from timetable import Event, Timetable
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.utils import logging
from wire import Peer, Question, Reply, serve

CHUNK = 512  # tokens of one forward while a cache is filled
ROUND = 64  # static caches have room in steps of so many tokens
MOST_COMPILED = 256  # kinds of forwards; beyond its limit torch would run them as they are
ROUND_COMPILED = 2048  # each room is compiled for anew, and what more there is costs little


class Transformers(Peer):
    """Modes: ``stateless``, ``warm`` (`DynamicCache`, cropped), ``static`` (`StaticCache`).

    On a GPU, questions and answers on a static cache run compiled, as CUDA graphs. Bars come in any
    number of tokens, each of which would be compiled anew, so they run as they are.
    """

    packages = ("transformers", "torch")

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        logging.disable_progress_bar()
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            settings["model"],
            dtype=getattr(torch, settings["dtype"]),
            attn_implementation="sdpa",
        ).to(settings["device"]).eval()  # fmt: skip
        self._on_gpu = settings["device"] == "cuda"
        self._compiled: Any = self._model
        if self._on_gpu and "static" in settings["modes"]:
            torch._dynamo.config.recompile_limit = MOST_COMPILED
            self._compiled = torch.compile(self._model, mode="reduce-overhead", dynamic=False)
        self._modes = settings["modes"]
        self._context: list[int] = []
        self._base: Any = DynamicCache(config=self._model.config)
        self._statics: dict[int, Any] = {}  # by room, all of the same length
        self._static_length = 0
        self._cache: Any = None
        self._added = 0
        self._asked = 0  # of these, by the latest question
        self._prompt: list[int] = []

    def about(self) -> dict[str, Any]:
        """Types of weights and cache."""
        dtype = str(self._model.dtype).removeprefix("torch.")
        kind = "" if self._compiled is self._model else ", static caches compiled as CUDA graphs"
        return {"weights": dtype, "cache": dtype, "settings": f"sdpa attention{kind}"}

    def fill(self, ids: list[int]) -> None:
        """Forwards of 512 tokens into the cache; nothing for who computes everything each time."""
        if self._modes != ["stateless"]:
            self._take(self._base, ids[len(self._context) :])
        self._context = ids

    def begin(self, mode: str, length: int, room: int) -> None:
        """The cache that is asked; it holds the context."""
        self._added = 0
        if mode == "stateless":
            self._prompt = self._context[:length]
        elif mode == "static":
            self._cache = self._filled_static(length, room)
        else:
            self._cache = self._base

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A forward for the bar, or a longer prompt."""
        if mode == "stateless":
            self._prompt = self._prompt + ids
        else:
            self._take(self._cache, ids)
            self._added += len(ids)

    def ask(self, mode: str, question: Question) -> Reply:
        """Greedy, forward by forward."""
        if mode == "stateless":
            self._cache, ids = DynamicCache(), self._prompt + question.ids
        else:
            ids = question.ids
        reply = self._answer(self._cache, ids, question)
        self._asked = len(question.ids) + len(reply.ids) - 1
        self._added += self._asked
        return reply

    def forget(self, mode: str) -> None:
        """Crop the question and its answer."""
        if mode == "static":
            for layer in self._cache.layers:
                layer.cumulative_length.sub_(self._asked)
        else:
            self._cache.crop(-self._asked)
        self._added -= self._asked

    def end(self, mode: str) -> None:
        """Cut the cache back."""
        if mode == "warm" and self._added:
            self._base.crop(-self._added)
        elif mode == "static":
            for layer in self._cache.layers:
                layer.cumulative_length.fill_(self._static_length)
        if mode != "warm":
            self._cache = None

    def mix(self, mode: str, table: Timetable) -> None:
        """One thing at a time: a question and its session's bars, or bars of who waits longest."""
        caches = [DynamicCache(config=self._model.config) for _ in table.contexts]
        lengths = [len(ids) for ids in table.contexts]
        for cache, ids in zip(caches, table.contexts, strict=True):
            self._take(cache, ids)
        bars: list[list[Event]] = [[] for _ in caches]
        asked: deque[Event] = deque()
        table.begin()
        while not table.over:
            for event in table.take():
                (bars[event.session] if event.is_bar else asked).append(event)
            oldest = min(filter(None, bars), key=lambda new: new[0].at, default=[])
            first = asked[0] if asked else oldest[0] if oldest else None
            if first is None:
                table.wait()
                continue
            session, cache = first.session, caches[first.session]
            reading, bars[session] = bars[session], []
            self._take(cache, [token for bar in reading for token in bar.ids])
            lengths[session] += sum(len(bar.ids) for bar in reading)
            for bar in reading:
                table.visible(bar)
            if asked:
                event = asked.popleft()
                table.sees(event, lengths[session])
                question = Question(event.ids, table.tokens, None, table.scored)
                reply = self._answer(cache, event.ids, question)
                table.answered(event, reply.ids, reply.logprobs or (), reply.first_at)
                cache.crop(-(len(event.ids) + len(reply.ids) - 1))

    def score(self, length: int, ids: list[int], answer: list[int]) -> dict[str, Any]:
        """Teacher-forced: the answer's log-probabilities, and the likeliest token at each step."""
        cache = DynamicCache(config=self._model.config)
        for index, layer in enumerate(self._base.layers if length else ()):
            cache.update(layer.keys[:, :, :length], layer.values[:, :, :length], index)
        logits = self._forward(cache, [*ids, *answer[:-1]], keep=len(answer))
        rows = torch.log_softmax(logits.float(), dim=-1)
        best = rows.max(dim=-1)
        return {
            "logprobs": [float(rows[i, token]) for i, token in enumerate(answer)],
            "best": best.indices.tolist(),
            "best_logprobs": best.values.tolist(),
        }

    def _answer(self, cache: Any, ids: Sequence[int], question: Question) -> Reply:
        """Greedy, forward by forward; they stay in the cache."""
        model = self._compiled if isinstance(cache, StaticCache) else self._model
        logits = self._forward(cache, ids, model=model)
        picked: list[int] = []
        logprobs: list[float] = []
        first, chances = None, None
        while True:
            if question.choices is not None:
                chances = torch.softmax(logits[-1, question.choices].float(), -1).tolist()
                picked.append(question.choices[chances.index(max(chances))])
            else:
                picked.append(int(logits[-1].argmax()))
            first = first or time.perf_counter()
            if question.scored:
                logprobs.append(float(torch.log_softmax(logits[-1].float(), -1)[picked[-1]]))
            if len(picked) == question.tokens:
                return Reply(picked, first, logprobs if question.scored else None, chances)
            logits = self._forward(cache, picked[-1:], model=model)

    def _take(self, cache: Any, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            self._forward(cache, ids[start : start + CHUNK])
        if self._on_gpu:
            torch.cuda.synchronize()  # it has been read when it says so

    def _filled_static(self, length: int, room: int) -> Any:
        """A `StaticCache` with the context in it; it attends over all of its room."""
        step = ROUND if self._compiled is self._model else ROUND_COMPILED
        room = -(-room // step) * step
        if self._static_length != length:
            self._statics.clear()
            self._static_length = length
        if room not in self._statics:
            static = StaticCache(self._model.config, max_cache_len=length + room)
            for index, layer in enumerate(self._base.layers):
                static.update(layer.keys[:, :, :length], layer.values[:, :, :length], index)
            self._statics[room] = static
        return self._statics[room]

    @torch.inference_mode()
    def _forward(
        self, cache: Any, ids: Sequence[int], keep: int = 1, model: Any = None
    ) -> Tensor:
        return (model or self._model)(
            input_ids=torch.tensor([list(ids)], device=self._model.device), past_key_values=cache,
            use_cache=True, logits_to_keep=keep,
        ).logits[0]  # fmt: skip


if __name__ == "__main__":
    serve(Transformers)
