"""What becomes due when in the mix: every session's own bars, and questions to any of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.bench.contenders import PROMPT
from workbench.bench.race.material import Material
from workbench.bench.race.options import Options
from workbench.bench.race.peers.timetable import BAR, QUESTION
from workbench.bench.stream import SCHEMA, bars
from workbench.streams.render import schema_for

RUN = 1_000  # streams set apart for each run
PAUSE_S = 0.5  # between the bars and the questions of a rehearsal


@dataclass(frozen=True)
class Due:
    """Something that is due.

    Attributes:
        at: seconds after the beginning.
        session: whose.
        kind: `BAR` or `QUESTION`.
        ids: its tokens.
        words: a question's text.
    """

    at: float
    session: int
    kind: str
    ids: list[int]
    words: str = ""


@dataclass(frozen=True)
class Schedule:
    """One run, the same for everyone.

    Attributes:
        contexts: by session, the tokens it holds at first.
        events: in order of time.
        seconds: how long things become due.
    """

    contexts: list[list[int]]
    events: list[Due]
    seconds: float

    @property
    def longest(self) -> int:
        """Tokens of the longest session in the end, with the longest question."""
        asked = max((len(due.ids) for due in self.events if due.kind == QUESTION), default=0)
        lengths = [len(ids) for ids in self.contexts]
        for due in self.events:
            if due.kind == BAR:
                lengths[due.session] += len(due.ids)
        return max(lengths) + asked

    def least(self, index: int) -> int:
        """Tokens that a question must see: its session's at first, and the bars due before it."""
        session = self.events[index].session
        bars = (due for due in self.events[:index] if due.kind == BAR and due.session == session)
        return len(self.contexts[session]) + sum(len(due.ids) for due in bars)

    def read(self, session: int, position: int) -> list[int] | None:
        """A session's first ``position`` tokens, or None if that is not the end of a bar."""
        ids = list(self.contexts[session])
        for due in self.events:
            if len(ids) >= position:
                break
            if due.kind == BAR and due.session == session:
                ids += due.ids
        return ids if len(ids) == position else None

    def as_sent(self) -> dict[str, Any]:
        """What a peer gets."""
        return {
            "contexts": self.contexts,
            "seconds": self.seconds,
            "events": [
                {"at": d.at, "session": d.session, "kind": d.kind, "ids": d.ids, "words": d.words}
                for d in self.events
            ],
        }


def schedule(material: Material, sessions: int, options: Options, run: int = 0) -> Schedule:
    """Bars of each session come as a Poisson process of its own; so do questions, to any session.

    Sessions do not depend on how many of them there are. Of questions there are as many as their
    mean says, at moments drawn uniformly: a Poisson process of which the number is known. Another
    ``run`` has other bars at the same times, so that nothing an engine kept of one helps the next.
    """
    seconds = options.mix_seconds
    first = RUN * (run + 1)  # the rehearsals come before
    streams = [_stream(material, first + s, options) for s in range(sessions)]
    contexts = [_context(stream, material, options.mix_context) for stream in streams]
    events = []
    for session, stream in enumerate(streams):
        rng, at = random.Random(f"{options.seed} bars {session}"), 0.0
        while (at := at + rng.expovariate(1 / options.mix_bars)) < seconds:
            events.append(Due(at, session, BAR, next(stream)))
    rng = random.Random(f"{options.seed} questions")
    for _ in range(max(1, round(seconds / options.mix_asks))):
        at, session = rng.uniform(0.0, seconds), int(rng.random() * sessions)
        which = rng.randrange(len(material.questions))
        words = material.questions_words[which]
        events.append(Due(at, session, QUESTION, material.questions[which], words))
    return Schedule(contexts, sorted(events, key=lambda due: due.at), seconds)


def rehearsal(material: Material, sessions: int, options: Options, attempt: int = 0) -> Schedule:
    """Two bars for each session, all due at once, and later two questions, all due at once.

    Questions at once share whatever an engine keeps of their session; that is where caches mix.
    Another ``attempt`` has other sessions.
    """
    first = attempt * sessions
    streams = [_stream(material, first + s, options) for s in range(sessions)]
    contexts = [_context(stream, material, options.mix_context) for stream in streams]
    arriving = [
        Due(0.0, session, BAR, next(stream))
        for session, stream in enumerate(streams)
        for _ in range(2)
    ]
    words, ids = material.questions_words, material.questions
    asked = [
        Due(PAUSE_S, index // 2, QUESTION, ids[index % len(ids)], words[index % len(ids)])
        for index in range(2 * sessions)
    ]
    return Schedule(contexts, [*arriving, *asked], PAUSE_S)


def _stream(material: Material, session: int, options: Options) -> Iterator[list[int]]:
    schema = schema_for(SCHEMA)
    for row in bars(options.seed + 1_000_000 * (session + 2)):
        yield material.tokens.data(schema.render([row]))


def _context(stream: Iterator[list[int]], material: Material, wanted: int) -> list[int]:
    ids = list(material.tokens.head(PROMPT))
    while len(ids) < wanted:
        ids += next(stream)
    return ids
