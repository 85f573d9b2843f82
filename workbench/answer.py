"""What a question got: text as it comes, timings, and everything needed to recompute it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from array import array
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from workbench.errors import Cancelled
from workbench.moment import Moment
from workbench.waiting import Completion, check_may_wait

_EMPTY: array[int] = array("i")
_QUIET = threading.Condition()  # of every answer that has ended: nothing more will come


class Answer(Completion):
    """An answer, complete or on its way.

    Iterate it (``for`` or ``async for``) for pieces of text as they are decoded; ``result()`` or
    ``await`` it for the whole; ``cancel()`` keeps what has arrived.

    Attributes:
        question: the words that were asked.
        text: the answer so far.
        choice, probabilities: for a closed question, the likeliest choice and each one's
            probability (they sum to 1), the model's own.
        calibrated: those probabilities as the model's folder says they come true.
        token_ids, logprobs: the answer's tokens and the model's natural-log probability of each.
        version, position, row: the session's version, tokens and rows it was computed at.
        at: the earlier moment that was asked for, if one was.
        context: tokens read before the question; of a prompt for `Engine.generate` all of its own.
        stateless: whether it was asked without a session. `Session.ask_stateless` computes
            everything for it alone, `Engine.generate` all but ``shared_tokens``.
        from_flash: whether it is a flash query's fresh answer, handed over without a forward.
        drafted, accepted: tokens that were guessed from the context, and how many were right.
        shared_tokens: tokens of a stateless prompt that were computed already.
        queue_ms, ttft_ms, total_ms: milliseconds from the ask to the first step, to the first
            token (TTFT) and to the end; `tpot_ms` is what each further token took.
        finish_reason: "stop", "length", "choice", "cancelled" or "error"; None while under way.
        error: why it failed, if it did.
    """

    __slots__ = (
        "_context", "_new_text", "_num_context", "_on_cancel", "_question_ids", "accepted",
        "asked_at", "at", "cancelled", "choice", "choice_temperature", "context", "drafted",
        "finish_reason", "from_flash", "logprobs", "position", "probabilities", "question",
        "queue_ms", "row", "session_name", "shared_tokens", "stateless", "text", "time",
        "token_ids", "total_ms", "ttft_ms", "version",
    )  # fmt: skip

    def __init__(self, question: str, session_name: str) -> None:
        super().__init__()
        self.question = question
        self.session_name = session_name
        self.text = ""
        self.choice: str | None = None
        self.probabilities: dict[str, float] = {}
        self.choice_temperature = 1.0
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.version = -1
        self.position = -1
        self.row = -1
        self.at: Moment | None = None
        self.context = 0
        self.stateless = False
        self.from_flash = False
        self.asked_at = time.perf_counter()
        self.time = time.time()
        self.queue_ms = self.ttft_ms = self.total_ms = math.nan
        self.finish_reason: str | None = None
        self.drafted = self.accepted = self.shared_tokens = 0
        self._context: array[int] = _EMPTY
        self._num_context = 0
        self._question_ids: list[int] = []
        self._new_text = threading.Condition()
        self._on_cancel: Callable[[], None] | None = None
        self.cancelled = False

    # What a reader does with it.

    @property
    def confidence(self) -> float:
        """0 to 1: the choice's probability, or the geometric mean of the tokens' probabilities."""
        if self.choice is not None:
            return self.probabilities[self.choice]
        if not self.logprobs:
            return 0.0
        return math.exp(sum(self.logprobs) / len(self.logprobs))

    @property
    def tpot_ms(self) -> float:
        """Milliseconds per output token after the first (TPOT); NaN where only one was decoded."""
        if self.choice is not None or len(self.token_ids) < 2:
            return math.nan
        return (self.total_ms - self.ttft_ms) / (len(self.token_ids) - 1)

    @property
    def calibrated(self) -> dict[str, float]:
        """``probabilities`` at the temperature that makes them agree with how often they are right.

        It is the ``temperature`` of the ``calibration.json`` in the model's folder, fitted on
        questions whose truth was known; without that file these are ``probabilities``. Their order
        is the same.
        """
        power = 1 / self.choice_temperature
        grown = {choice: chance**power for choice, chance in self.probabilities.items()}
        total = sum(grown.values())
        return {choice: chance / total for choice, chance in grown.items()}

    @property
    def input_ids(self) -> list[int]:
        """Every token the model read for it: the context up to its position, then the question."""
        return [*self._context[: self._num_context], *self._question_ids]

    def context_bytes(self) -> bytes:
        """The context's tokens as int32 in native order, without the question's."""
        return self._context[: self._num_context].tobytes()

    def result(self, timeout: float | None = None) -> Answer:
        """Block until it is complete; an interrupt cancels it and keeps the partial text.

        Raises:
            TimeoutError: not complete after ``timeout`` seconds; it goes on.
            WorkbenchError: what went wrong, `Cancelled` included.
        """
        try:
            self.join(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return self

    def cancel(self) -> None:
        """Stop at the next step; ``text`` keeps what has arrived. Safe at any time."""
        self.cancelled = True
        on_cancel = self._on_cancel  # which the engine may forget meanwhile
        if on_cancel is not None and not self.done:
            on_cancel()

    def __iter__(self) -> Iterator[str]:
        sent = 0
        while True:
            done = self.done  # read before the text, so that the last piece is not missed
            piece = self.text[sent:]
            if piece:
                sent += len(piece)
                yield piece
            elif done:
                break
            else:
                check_may_wait()
                new_text = self._new_text  # which another takes the place of at the end
                with new_text:
                    if not self.done and len(self.text) == sent:
                        new_text.wait()
        if self.error is not None and not isinstance(self.error, Cancelled):
            raise self.error.with_traceback(None)

    async def __aiter__(self) -> AsyncIterator[str]:
        sent = 0
        while True:
            done = self.done  # read before the text, so that the last piece is not missed
            piece = self.text[sent:]
            if piece:
                sent += len(piece)
                yield piece
            elif done:
                break
            else:
                await asyncio.sleep(0.005)
        if self.error is not None and not isinstance(self.error, Cancelled):
            raise self.error.with_traceback(None)

    def __await__(self) -> Generator[Any, None, Answer]:
        return self._result().__await__()

    async def _result(self) -> Answer:
        try:
            await self.join_async()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        if not self.done:
            return f"Answer({self.text!r}, under way)"
        if self.error is not None:
            return f"Answer({self.text!r}, {self.finish_reason}: {self.error})"
        how = "flash" if self.from_flash else f"TTFT {self.ttft_ms:.1f} ms"
        when = "stateless" if self.stateless else f"version {self.version}"
        if self.at is not None:
            when = f"as of {self.at}, {when}"
        return (
            f"Answer({self.text!r}, confidence {self.confidence:.2f}, {when}, "
            f"{self.context:,} tokens, {how}, total {self.total_ms:.3g} ms)"
        )

    # What the engine does to it.

    def begin(
        self, context: array[int], num_context: int, position: int, version: int, row: int
    ) -> None:
        """Fix the moment it is answered as of; the log may grow, its first tokens stay."""
        self._context, self._num_context = context, num_context
        self.position, self.version, self.row = position, version, row
        if not self.stateless:
            self.context = num_context
        self.queue_ms = self._since_ask()

    def asks_with(self, question_ids: list[int], on_cancel: Callable[[], None]) -> None:
        """Note the question's own tokens, and how to cancel it."""
        self._question_ids, self._on_cancel = question_ids, on_cancel

    def add(self, token_id: int, logprob: float) -> None:
        """One more token."""
        if not self.token_ids:
            self.ttft_ms = self._since_ask()
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)

    def show(self, text: str) -> None:
        """The text so far; only ever longer."""
        with self._new_text:
            self.text = text
            self._new_text.notify_all()

    def choose(
        self,
        probabilities: dict[str, float],
        token_ids: list[int],
        lp: list[float],
        temperature: float = 1.0,
    ) -> None:
        """The outcome of a closed question; ``token_ids`` and ``lp`` are the winner's.

        ``temperature`` is the one that calibrates it.
        """
        self.ttft_ms = self._since_ask()
        self.probabilities, self.choice_temperature = probabilities, temperature
        self.choice = max(probabilities, key=lambda c: probabilities[c])
        self.token_ids, self.logprobs = token_ids, lp
        self.show(self.choice)

    def end(self, reason: str, error: BaseException | None = None) -> bool:
        """The last word; false if it had already ended."""
        if self.done:
            return False
        self.finish_reason = reason
        self.total_ms = self._since_ask()
        ended = self.finish(error)
        new_text, self._new_text, self._on_cancel = self._new_text, _QUIET, None
        with new_text:
            new_text.notify_all()
        return ended

    def served(self, asked_at: float) -> Answer:
        """A finished copy of this flash answer, for an ask made at ``asked_at`` (perf_counter)."""
        copy = Answer(self.question, self.session_name)
        copy.text, copy.choice, copy.probabilities = self.text, self.choice, self.probabilities
        copy.choice_temperature = self.choice_temperature
        copy.token_ids, copy.logprobs = self.token_ids, self.logprobs
        copy.version, copy.position, copy.row = self.version, self.position, self.row
        copy.context = self.context
        copy._context, copy._num_context = self._context, self._num_context
        copy._question_ids = self._question_ids
        copy.from_flash, copy.finish_reason = True, self.finish_reason
        copy.asked_at = asked_at
        copy.queue_ms, copy.ttft_ms = 0.0, copy._since_ask()
        copy.total_ms = copy.ttft_ms
        copy.finish()
        copy._new_text = _QUIET
        return copy

    def _since_ask(self) -> float:
        return (time.perf_counter() - self.asked_at) * 1e3
