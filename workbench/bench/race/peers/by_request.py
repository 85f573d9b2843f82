"""Engines that take requests of whole prompts, batch them by themselves, and share prefixes.

Standard library only, as `wire`. Kept warm, a bar is a throw-away request of one token.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from timetable import Event, Timetable
from wire import Peer, Question, Reply, Round

Key = str | int
WARM = "warm"  # bars are read when they arrive; in the other modes, when something is asked


class Piece(NamedTuple):
    """Tokens that one request has got."""

    key: Key
    ids: Sequence[int]
    logprobs: Sequence[float] = ()


class Stream:
    """One session of the mix.

    Attributes:
        index: its number.
        ids: everything it has got.
        length: how many of them have been read, or are being read.
        reading: bars that a request in flight reads.
        waiting: bars for the next one.
    """

    def __init__(self, index: int, ids: list[int]) -> None:
        self.index = index
        self.ids = list(ids)
        self.length = 0
        self.reading: list[Event] = []
        self.waiting: list[Event] = []


class RequestPeer(Peer):
    """``submit``, ``step`` and ``cancel`` are an engine's own; the rest follows from them."""

    context: Sequence[int] = ()
    prompt: Sequence[int] = ()

    def submit(self, ids: Sequence[int], question: Question | None = None) -> Key:
        """Begin a request; without a question it is for one token that nobody wants."""
        raise NotImplementedError

    def step(self) -> Iterable[Piece]:
        """Compute a little."""
        raise NotImplementedError

    def cancel(self, keys: Sequence[Key]) -> None:
        """Give requests up."""
        raise NotImplementedError

    def begin(self, mode: str, length: int, room: int) -> None:
        """The prefix cache holds the context."""
        self.prompt = self.context[:length]

    def arrive(self, mode: str, ids: list[int]) -> None:
        """A throw-away request, or nothing yet."""
        self.prompt = [*self.prompt, *ids]
        if mode == WARM:
            self.read()

    def ask(self, mode: str, question: Question) -> Reply:
        """A request for all of it."""
        return self.answers([self.submit([*self.prompt, *question.ids], question)], [question])[0]

    def refresh(self, mode: str, ids: list[int]) -> Round:
        """The bar, then all questions at once, stepped together."""
        self.arrive(mode, ids)
        read_at = time.perf_counter() if mode == WARM else None
        keys = [self.submit([*self.prompt, *q.ids], q) for q in self.watched]
        replies = self.answers(keys, self.watched)
        return Round(replies, time.perf_counter(), read_at)

    def read(self) -> None:
        """Have the prompt computed."""
        self.answers([self.submit(self.prompt)], [None])

    def answers(self, keys: Sequence[Key], asked: Sequence[Question | None]) -> list[Reply]:
        """Step until every request has as many tokens as were asked for."""
        replies = [Reply([]) for _ in keys]
        missing = {
            key: [1 if question is None else question.tokens, reply]
            for key, question, reply in zip(keys, asked, replies, strict=True)
        }
        while missing:
            for piece in self.step():
                if piece.key not in missing or not piece.ids:
                    continue
                tokens, reply = missing[piece.key]
                reply.first_at = reply.first_at or time.perf_counter()
                reply.ids += piece.ids
                if piece.logprobs:
                    reply.logprobs = [*(reply.logprobs or ()), *piece.logprobs]
                if len(reply.ids) >= tokens:
                    del missing[piece.key]
        return replies

    # Many sessions.

    def read_stream(self, mode: str, stream: Stream) -> Key:
        """Have what is new in a session computed."""
        stream.length = len(stream.ids)
        return self.submit(stream.ids)

    def close_streams(self, mode: str, streams: Sequence[Stream]) -> None:
        """The mix is over."""

    def mix(self, mode: str, table: Timetable) -> None:
        """Questions begin when they are due. Bars are read while nothing is answered, and those
        that come while others of their session are read wait for them: no step that decodes an
        answer is made long by rows that nobody has asked about."""
        streams = [Stream(index, ids) for index, ids in enumerate(table.contexts)]
        for stream in streams:
            self.answers([self.read_stream(mode, stream)], [None])
        asked: dict[Key, Event] = {}
        read: dict[Key, Stream] = {}
        table.begin()
        while not table.over:
            for event in table.take():
                stream = streams[event.session]
                if not event.is_bar:
                    question = Question(event.ids, table.tokens, None, table.scored)
                    asked[self.submit([*stream.ids, *event.ids], question)] = event
                    table.sees(event, len(stream.ids))
                    continue
                stream.ids += event.ids
                if self.reads_when_asked(mode):
                    table.keep(event)
                else:
                    stream.waiting.append(event)
            for stream in streams:
                if stream.waiting and not stream.reading and not asked:
                    stream.reading, stream.waiting = stream.waiting, []
                    read[self.read_stream(mode, stream)] = stream
            if not asked and not read:
                table.wait()
                continue
            for piece in self.step():
                if piece.key in asked:
                    if table.answered(asked[piece.key], piece.ids, piece.logprobs):
                        del asked[piece.key]
                elif piece.key in read and piece.ids:
                    done = read.pop(piece.key)
                    for event in done.reading:
                        table.visible(event)
                    done.reading = []
        self.cancel([*asked, *read])
        self.close_streams(mode, streams)

    def reads_when_asked(self, mode: str) -> bool:
        """Whether bars wait for a question."""
        return mode == "prefix"
