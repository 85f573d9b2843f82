"""Our sessions in the race; the one peer that runs in workbench's own environment."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from wire import Peer, Question, Reply, serve


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
        self._cells = settings["cells"]
        self._engine = wb.Engine(
            settings["model"], cells=2 * self._cells + 4096, watermark=4096,
            threads=settings["threads"], dtype=settings["dtype"], speculate=False, progress=False,
        )  # fmt: skip
        self._parse = schema_for(self._schema).parse
        self._rows: list[Any] = []
        self._base = self._open("base")
        self._session = self._base
        self._flash: Any = None
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
        self._session, self._flash = self._base, None

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


if __name__ == "__main__":
    serve(Sessions)
