"""Engines whose requests are asynchronous streams of tokens, on one loop that this thread turns.

Standard library only, as `wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from by_request import Piece, RequestPeer
from wire import Question

POLL_S = 0.005  # for a token, before looking at what else is due

Tokens = tuple[Sequence[int], Sequence[float]]  # new ones, and their log-probabilities if asked for


class AsyncPeer(RequestPeer):
    """``replies`` is an engine's own; the rest follows from it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the loop on which the engine's streams live."""
        self._loop = loop
        self._news = asyncio.Event()
        self._pieces: list[Piece] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._number = 0

    def replies(
        self, key: int, ids: Sequence[int], question: Question | None
    ) -> AsyncIterator[Tokens]:
        """One request; a stream that is cancelled ends the request."""
        raise NotImplementedError

    def fill(self, ids: list[int]) -> None:
        """One throw-away token; the prefix cache keeps the rest."""
        self.prompt = self.context = ids
        self.read()

    def submit(self, ids: Sequence[int], question: Question | None = None) -> int:
        """Begin a request; it is sent at the next step."""
        self._number += 1
        follow = self._follow(self._number, list(ids), question)
        self._tasks[self._number] = self._loop.create_task(follow)
        return self._number

    def step(self) -> list[Piece]:
        """What has come since; waits a moment for it."""
        self._loop.run_until_complete(self._turn())
        pieces, self._pieces = self._pieces, []
        return pieces

    def cancel(self, keys: Sequence[int]) -> None:
        """End them, and wait until they have ended."""
        ended = [self._tasks.pop(key) for key in keys if key in self._tasks]
        for task in ended:
            task.cancel()
        if ended:
            self._loop.run_until_complete(asyncio.wait(ended))
        self._pieces = [piece for piece in self._pieces if piece.key not in keys]

    def close(self) -> None:
        """End what is under way, and the loop."""
        self.cancel(list(self._tasks))
        self._loop.close()

    async def _follow(self, key: int, ids: list[int], question: Question | None) -> None:
        try:
            async for new, logprobs in self.replies(key, ids, question):
                self._pieces.append(Piece(key, new, logprobs))
                self._news.set()
        finally:
            self._news.set()

    async def _turn(self) -> None:
        """Until something has come, or a moment has passed; what failed is raised."""
        if not self._pieces:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_S)
        for key, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[key]
                task.result()
