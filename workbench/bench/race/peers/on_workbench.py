"""Our sessions in the race; the one peer that runs in workbench's own environment."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timetable import Event, Timetable
from wire import Peer, Question, Reply, Round, serve

CHECK_S = 1.0  # between two looks at whether a standing question has failed


class Sessions(Peer):
    """A session keeps the context; each measured question has one of its own that shares it."""

    packages = ("workbench", "torch", "transformers")

    def __init__(self, settings: dict[str, Any]) -> None:
        import workbench as wb
        from workbench.streams.render import schema_for

        material = json.loads(Path(settings["material"]).read_text())
        self._prompt = material["prompt"]
        self._schema = material["schema"]
        self._words = material["question_words"]
        self._labels = material["labels"]
        # Twice the room: one session keeps the context, another has what a question adds.
        self._cells = settings["longest"]
        cells = max(2 * self._cells, settings["cells"])
        self._engine = wb.Engine(
            settings["model"], cells=cells + 4096, watermark=4096,
            threads=settings["threads"], dtype=settings["dtype"], device=settings["device"],
            speculate=False, progress=False,
        )  # fmt: skip
        self._parse = schema_for(self._schema).parse
        self._rows: list[Any] = []
        self._base = self._open("base")
        self._engine.core.warmer.wait()  # others too find memory for all cells before they begin
        self._session = self._base
        self._flash: Any = None
        self._standing: list[Any] = []
        self._ids: list[int] = []

    def about(self) -> dict[str, Any]:
        """Types, and what is switched off."""
        return {
            "weights": str(self._engine.dtype).removeprefix("torch."),
            "cache": str(self._engine.dtype).removeprefix("torch."),
            "settings": "speculation off; a session per question shares the context's cells",
        }

    def fill(self, ids: list[int]) -> None:
        """Push what is new."""
        self._push(self._base, ids[self._base.position :])
        self._ids = ids
        self._rows = self._to_rows(ids[len(self._engine.tokens.head(self._prompt)) :])

    def begin(self, mode: str, length: int, room: int) -> None:
        """Open a session that shares the context; it must not be computed again."""
        before = self._engine.stats().ingested_tokens
        self._session = self._open("asked")
        self._session.push(self._rows).wait()
        computed = self._engine.stats().ingested_tokens - before
        if self._session.token_ids != self._ids or length != len(self._ids):
            msg = f"the session reads {self._session.position} tokens that differ from the others'"
            raise ValueError(msg)
        if computed > 64:
            msg = f"expected the context to be shared, {computed} tokens of it were computed again"
            raise ValueError(msg)
        if mode == "flash":
            self._flash = self._session.flash(self._words, choices=self._labels)
            self._flash.pause()

    def arrive(self, mode: str, ids: list[int]) -> None:
        """Push one row and wait until it is visible."""
        self._push(self._session, ids)

    def settle(self, mode: str) -> None:
        """Let the standing question be answered, as it would be in idle time."""
        if mode == "flash":
            self._flash.resume()
            while not self._flash.is_fresh:
                if self._flash.error is not None:
                    raise self._flash.error
                time.sleep(0.0005)

    def ask(self, mode: str, question: Question) -> Reply:
        """Ask on a branch."""
        began = time.perf_counter()
        if question.choices is None:
            answer = self._session.ask(self._words, max_tokens=question.tokens)
        else:
            answer = self._session.ask(self._words, choices=self._labels)
        asked = list(answer.input_ids[answer.position :])
        if asked != question.ids or answer.from_flash != (mode == "flash"):
            msg = f"asked {len(asked)} tokens (from a flash query: {answer.from_flash})"
            raise ValueError(msg)
        chances = [answer.probabilities[label] for label in self._labels if answer.probabilities]
        return Reply(
            answer.token_ids,
            None if question.tokens == 1 else began + answer.ttft_ms / 1e3,
            answer.logprobs,
            chances or None,
        )

    def end(self, mode: str) -> None:
        """Close the session."""
        if self._session is not self._base:
            self._session.close()
        self._session, self._flash, self._standing = self._base, None, []

    # Standing questions.

    def watch(self, mode: str, questions: Sequence[Question]) -> None:
        """A flash query each; they are answered as of the context first."""
        self._standing = [
            self._session.flash(
                question.words, name=str(number), max_tokens=question.tokens,
                choices=None if question.choices is None else self._labels,
            )
            for number, question in enumerate(questions)
        ]  # fmt: skip
        for query, question in zip(self._standing, questions, strict=True):
            answer = query.wait()
            if list(answer.input_ids[answer.position :]) != question.ids:
                msg = f"flash query {question.words!r} asks other tokens than the others do"
                raise ValueError(msg)

    def refresh(self, mode: str, ids: list[int]) -> Round:
        """Push the row; the flash queries are answered by themselves."""
        from workbench.events import FlashAnswered

        answered: dict[str, float] = {}
        read: list[float] = []
        done = threading.Event()
        target = self._session.version + 1

        def note(event: Any) -> None:
            if isinstance(event, FlashAnswered) and event.version >= target:
                answered.setdefault(event.flash, time.perf_counter())
                if len(answered) == len(self._standing):
                    done.set()

        unsubscribe = self._engine.events.subscribe(note)
        try:
            tick = self._session.push(self._to_rows(ids))
            tick.when_done(lambda: read.append(time.perf_counter()))
            while not done.wait(CHECK_S):
                for error in (tick.error, *(query.error for query in self._standing)):
                    if error is not None:
                        raise error
        finally:
            unsubscribe()
        replies = [
            Reply(
                query.answer.token_ids, None, query.answer.logprobs,
                list(query.answer.probabilities.values()) or None,
            )
            for query in self._standing
        ]  # fmt: skip
        return Round(replies, max(answered.values()), read[0])

    # Many sessions.

    def mix(self, mode: str, table: Timetable) -> None:
        """Push and ask from one thread; the engine's own computes, and says when it is done."""
        head = len(self._engine.tokens.head(self._prompt))
        sessions = [self._open(f"mix-{index}") for index in range(len(table.contexts))]
        for session, ids in zip(sessions, table.contexts, strict=True):
            session.push(self._to_rows(ids[head:]))
        for session, ids in zip(sessions, table.contexts, strict=True):
            session.flush()
            if session.token_ids != ids:
                msg = f"session {session.name!r} reads tokens that differ from the others'"
                raise ValueError(msg)
        rows = {event.index: self._to_rows(event.ids) for event in table.events if event.is_bar}
        answers: list[tuple[Event, Any]] = []
        errors: list[BaseException] = []
        table.begin()
        while not table.over and not errors:
            for event in table.take():
                session = sessions[event.session]
                if event.is_bar:
                    sent = session.push(rows[event.index])
                    sent.when_done(_visible(table, event, sent, errors))
                else:
                    sent = session.ask_start(event.words, max_tokens=table.tokens)
                    answers.append((event, sent))
                    sent.when_done(_answered(table, event, sent, errors))
            table.wait()
        failed = list(errors)
        for session in sessions:
            session.close()  # what is unfinished ends with an error, after the end
        if failed:
            raise failed[0]
        for event, answer in answers:
            if answer.position >= 0:
                table.sees(event, answer.position)
            if answer.error is None and list(answer.input_ids[answer.position :]) != event.ids:
                msg = f"asked {event.words!r}, which are other tokens than the others'"
                raise ValueError(msg)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _open(self, name: str) -> Any:
        return self._engine.open(name, prompt=self._prompt, schema=self._schema, cells=self._cells)

    def _push(self, session: Any, ids: list[int]) -> None:
        if ids:
            session.push(self._to_rows(ids)).wait()

    def _to_rows(self, ids: list[int]) -> list[Any]:
        return list(self._parse(self._engine.tokens.text(ids)))


def _visible(
    table: Timetable, event: Event, tick: Any, errors: list[BaseException]
) -> Callable[[], None]:
    def note() -> None:
        if tick.error is not None:
            errors.append(tick.error)
        else:
            table.visible(event)

    return note


def _answered(
    table: Timetable, event: Event, answer: Any, errors: list[BaseException]
) -> Callable[[], None]:
    def note() -> None:
        if answer.error is not None:
            errors.append(answer.error)
        else:
            first_at = answer.asked_at + answer.ttft_ms / 1e3
            table.answered(event, answer.token_ids, answer.logprobs, first_at)

    return note


if __name__ == "__main__":
    serve(Sessions)
