"""Who is asked: the session and its peers, all on the same context, and what each ask took.

Everyone computes in the engine's thread: OpenMP keeps a team per thread, and a second team on the
same processors would slow both sides.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

import workbench as wb
from workbench.bench.batching import Batching
from workbench.bench.model import load_plain
from workbench.bench.peers import Stateless, Warm, WarmCompiled, WarmStatic
from workbench.bench.stream import SCHEMA, bars, take
from workbench.engine.floor import Floor, weights_bandwidth
from workbench.engine.roofline import Arithmetic
from workbench.engine.tokens import Tokens
from workbench.errors import WorkbenchError

OURS = "workbench"
ONE, EIGHT, CHOICES, FLASH, BAR = "1 token", "8 tokens", "two choices", "flash hit", "one bar in"
MAY_FAIL = (WarmCompiled.name, Batching.name)
FORWARDS = {ONE: 1, EIGHT: 8, CHOICES: 1, BAR: 1}
UP_DOWN = ("up", "down")
PROMPT = "You watch the tape."
QUESTION_TOKENS = 16
PAUSE_S = 0.02  # between two measurements: threads of the one before stop spinning
TICK = 16  # rows of a push while a context is filled

# Largest difference of log-probabilities. Everyone computes the same sums in another order, so
# rounding is all that may differ: of 24 bits in float32, of 8 in bfloat16, through every layer. A
# cache that lacks one bar differs by 1 and more, which every comparison measures and states too.
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.3}


@dataclass
class Samples:
    """All measurements of one system and one kind of question at one context."""

    total_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, position: int, total_ms: float, ttft_ms: float | None = None) -> None:
        """One more; a one-token answer's first token is its last."""
        self.positions.append(position)
        self.total_ms.append(total_ms)
        self.ttft_ms.append(total_ms if ttft_ms is None else ttft_ms)


Measured = dict[tuple[str, str], Samples]
T = TypeVar("T")


class Contenders:
    """The session and its peers, always on the same context.

    Attributes:
        unavailable: why a peer that is not needed is out, by its name: it failed, or gave others'
            answers.
    """

    def __init__(
        self, folder: Path, *, cells: int, dtype: str, seed: int, device: str = "cpu",
        more: bool = False,
    ) -> None:  # fmt: skip
        """Load the model in ``folder`` for everyone; the session may hold ``cells`` tokens.

        ``more`` adds a compiled static cache and continuous batching, which may fail.
        """
        self.engine = wb.Engine(folder, cells=cells + 1024, watermark=1024, dtype=dtype,
                                device=device, speculate=False)  # fmt: skip
        plain = self.engine.call(lambda: load_plain(folder, self.engine.dtype, device))
        self.floor, self.arithmetic = Floor.of(plain), Arithmetic.of(plain)
        self.stateless = Stateless(plain)
        self.warm = Warm(plain)
        self.static: list[WarmStatic] = []
        self.batching: Batching | None = None
        self.unavailable: dict[str, str] = {}
        self._plain, self._more = plain, more
        if more:
            own = self.engine.call(lambda: load_plain(folder, self.engine.dtype, device))
            self.batching = self._from(Batching.name, lambda: Batching(own, cells))
        self.session = self.engine.open("bench", prompt=PROMPT, schema=SCHEMA, cells=cells)
        self.question = question_of(self.engine.tokens, QUESTION_TOKENS)
        self.question_ids = self.engine.tokens.question(self.question)
        self.flash = self.session.flash(self.question, choices=UP_DOWN)
        self.flash.pause()
        self._rows = bars(seed)
        self._rounds = 0
        self.reading_s = {OURS: 0.0, Warm.name: 0.0}

    # Context.

    def grow(self, context: int) -> Iterator[int]:
        """Bring everyone to at least ``context`` tokens; yields how many were added, in steps.

        ``reading_s`` is then how long each took for that.
        """
        self.static = []
        self.reading_s = dict.fromkeys(self.reading_s, 0.0)
        missing = context - self.session.position
        rows = take(self._rows, missing, self.engine.tokens.data) if missing > 0 else []
        for start in range(0, len(rows), TICK):
            before = self.warm.length
            times = [time.perf_counter()]
            self.session.push(rows[start : start + TICK]).wait()
            times.append(time.perf_counter())
            self.engine.call(lambda: self.warm.advance(self._new_ids()))
            times.append(time.perf_counter())
            self.reading_s[OURS] += times[1] - times[0]
            self.reading_s[Warm.name] += times[2] - times[1]
            yield self.warm.length - before

    def preallocate(self, room: int) -> None:
        """Give peers that need to know it the present context and ``room`` tokens more."""
        plain, warm = self._plain, self.warm
        self.static = [self.engine.call(lambda: WarmStatic(plain, warm, room))]
        if self._more:
            made = self._from(WarmCompiled.name, lambda: WarmCompiled(plain, warm, room))
            self.static += [made] if made is not None else []
        if (peer := self.batching) is not None:
            ids = self.session.token_ids[peer.length :]
            self._from(peer.name, lambda: peer.advance(ids))

    def bar_arrives(self, measured: Measured) -> None:
        """One more bar for everyone, timed."""
        self._rounds += 1
        row = next(self._rows)
        time.sleep(PAUSE_S)
        position = self.session.position
        began = time.perf_counter()
        self.session.push(row).wait()
        measured[OURS, BAR].add(position, (time.perf_counter() - began) * 1e3)
        ids = self._new_ids()
        for peer in self._warm_peers():
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            self._from(peer.name, functools.partial(peer.advance, ids))
            if peer.name not in self.unavailable:
                measured[peer.name, BAR].add(position, (time.perf_counter() - began) * 1e3)

    def _new_ids(self) -> list[int]:
        return self.session.token_ids[self.warm.length :]

    def _warm_peers(self) -> list[Warm | Batching]:
        everyone: list[Warm | Batching] = [self.warm, *self.static]
        if self.batching is not None:
            everyone.append(self.batching)
        return [peer for peer in everyone if peer.name not in self.unavailable]

    def _from(self, name: str, call: Callable[[], T]) -> T | None:
        """What a peer gives, in the engine's thread; None once one that may fail has failed."""
        if name in self.unavailable:
            return None
        try:
            return self.engine.call(call)
        except Exception as error:  # every part of torch and transformers raises its own kind
            if name not in MAY_FAIL:
                raise
            self.unavailable[name] = (str(error).strip() or repr(error)).splitlines()[0]
            return None

    # Questions.

    def ask_all(self, kind: str, measured: Measured, *, stateless: bool = False) -> None:
        """Ask everyone for an open answer of 1 or 8 tokens."""
        num = FORWARDS[kind]
        position = self.session.position
        systems: list[Warm | Batching | Stateless | None] = [None, *self._warm_peers()]
        first = self._rounds % len(systems)
        systems = systems[first:] + systems[:first]
        for system in [*systems, *([self.stateless] if stateless else [])]:
            time.sleep(PAUSE_S)
            if system is None:
                self._ask_ours(kind, measured)
            elif not isinstance(system, Stateless):
                own = functools.partial(system.ask, self.question_ids, num)
                reply = self._from(system.name, own)
                if reply is not None:
                    measured[system.name, kind].add(position, reply.total_ms, reply.ttft_ms)
            else:
                context = self.session.token_ids
                ask = functools.partial(system.ask, context, self.question_ids, num)
                reply = self.engine.call(ask)
                measured[system.name, kind].add(position, reply.total_ms, reply.ttft_ms)
                # Its first token is what a one-token answer would have been.
                measured[system.name, ONE].add(position, reply.ttft_ms)

    def ask_choice(self, measured: Measured) -> None:
        """Ask the session to choose between two."""
        time.sleep(PAUSE_S)
        self._ask_ours(CHOICES, measured)

    def ask_flash(self, measured: Measured) -> None:
        """Let the flash query catch up, then ask for its answer."""
        self.flash.resume()
        while not self.flash.is_fresh:
            if self.flash.error is not None:
                raise self.flash.error
            time.sleep(0.002)
        time.sleep(PAUSE_S)
        self._ask_ours(FLASH, measured)
        self.flash.pause()

    def _ask_ours(self, kind: str, measured: Measured) -> None:
        began = time.perf_counter()
        if kind in (CHOICES, FLASH):
            answer = self.session.ask(self.question, choices=UP_DOWN)
        else:
            answer = self.session.ask(self.question, max_tokens=FORWARDS[kind])
        total_ms = (time.perf_counter() - began) * 1e3
        _check_answer(answer, kind)
        measured[OURS, kind].add(answer.position, total_ms, answer.ttft_ms)

    def bandwidth(self) -> float:
        """Bytes per second at which the session's own weights can be read, at best."""
        weights = [p for p in self.engine.decoder.model.parameters() if p.dim() > 1]
        return self.engine.call(lambda: weights_bandwidth(weights, pick=min))

    # Truth.

    def compare(self) -> dict[str, Any]:
        """Log-probabilities of the session's answer, by everyone; see `check`."""
        # A flash answer may not stand in here: an open question never matches the flash query.
        answer = self.session.ask(self.question, max_tokens=FORWARDS[EIGHT])
        _check_answer(answer, EIGHT)
        choice = self.session.ask(self.question, choices=UP_DOWN)
        return self.engine.call(lambda: self._compare(answer, choice))

    def _compare(self, answer: wb.Answer, choice: wb.Answer) -> dict[str, Any]:
        context, question, tokens = self.session.token_ids, self.question_ids, answer.token_ids
        scores, greedy = {}, {}
        for peer in self._warm_peers():
            score = self._from(peer.name, functools.partial(peer.score, question, tokens))
            reply = self._from(peer.name, functools.partial(peer.ask, question, len(tokens)))
            if reply is not None:
                greedy[peer.name] = reply.token_ids
            if score:  # one that gives other tokens scores those before the first of them
                scores[peer.name] = score
        scores[self.stateless.name] = self.stateless.score(context, question, tokens)
        bound = BOUNDS[self.engine.dtype]
        for name in [name for name in scores if name in MAY_FAIL]:
            apart = _distance(answer.logprobs, scores[name])
            if not apart <= bound:  # NaN included
                self.unavailable[name] = f"differs by {apart:.3g}, bound {bound:.3g}"
                del scores[name], greedy[name]
        chances = self._choice_by_peer()
        return {
            "position": answer.position,
            "tokens": len(tokens),
            "max_difference": {
                name: _distance(answer.logprobs, score) for name, score in scores.items()
            },
            "max_difference_between_peers": max(
                _distance(a, b) for a, b in itertools.combinations(scores.values(), 2)
            ),
            "choice_difference": max(
                abs(chances[name] - choice.probabilities[name]) for name in UP_DOWN
            ),
            "same_greedy_tokens": {name: ids == tokens for name, ids in greedy.items()},
            "logprobs": answer.logprobs,
            "difference_if_the_last_bar_were_missing": self._stale_difference(answer),
            "bound": bound,
        }

    def _choice_by_peer(self) -> dict[str, float]:
        ids = {name: self.engine.tokens.choice(name) for name in UP_DOWN}
        scores = [sum(self.warm.score(self.question_ids, ids[name])) for name in UP_DOWN]
        chances = torch.softmax(torch.tensor(scores, dtype=torch.float64), dim=0).tolist()
        return dict(zip(UP_DOWN, chances, strict=True))

    def _stale_difference(self, answer: wb.Answer) -> float:
        """What a cache that lacks the last bar would differ by: how much the check can see."""
        ids = self.session.token_ids
        newline = self.engine.tokens.data("\n")[-1]
        last = next(n for n in range(2, len(ids)) if ids[-n] == newline) - 1
        self.warm.forget(last)
        stale = self.warm.score(self.question_ids, answer.token_ids)
        self.warm.advance(ids[-last:])
        return _distance(answer.logprobs, stale)

    def close(self) -> None:
        """Free the model and the cells."""
        if self.batching is not None:
            self.batching.close()
        self.engine.close()


def question_of(tokens: Tokens, num_tokens: int) -> str:
    """A question that is exactly ``num_tokens`` tokens, its template's end included.

    Raises:
        WorkbenchError: no such question was found.
    """
    for digits in range(1, 4 * num_tokens):
        words = f"Is the trend up or down over {'1' * digits} bars?"
        if len(tokens.question(words)) == num_tokens:
            return words
    msg = f"expected a question of {num_tokens} tokens to exist for this tokenizer; found none"
    raise WorkbenchError(msg)


def _check_answer(answer: wb.Answer, kind: str) -> None:
    asked = len(answer.input_ids) - answer.position
    wrong = asked != QUESTION_TOKENS or answer.from_flash != (kind == FLASH)
    if kind in (ONE, EIGHT):
        wrong = wrong or len(answer.token_ids) != FORWARDS[kind]
    if wrong:
        msg = (
            f"expected {kind} to a question of {QUESTION_TOKENS} tokens, got "
            f"{len(answer.token_ids)} tokens to {asked} (from a flash query: {answer.from_flash}); "
            "its time would mean nothing"
        )
        raise WorkbenchError(msg)


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference, as far as both go; NaN where one has nothing."""
    return max((abs(x - y) for x, y in zip(a, b, strict=False)), default=float("nan"))
