"""What the engine works on: a session's data plane, and a question on its branch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from workbench.answer import Answer
from workbench.cells.sequence import Sequence
from workbench.engine.sampler import Sampler, Sampling
from workbench.engine.tokens import TextStream, Tokens
from workbench.scheduler.scheduler import Kind
from workbench.tick import Tick, TickQueue


class Mark(NamedTuple):
    """A moment of a session: its version, and how many tokens and rows were visible at it."""

    version: int
    position: int
    rows: int

    def after(self, tick: Tick) -> Mark:
        """The moment one tick later; a session's head is no version of its own."""
        version = self.version + (not tick.is_head)
        return Mark(version, self.position + tick.num_tokens, self.rows + tick.rows)


@dataclass(eq=False)
class Ingest:
    """A session as the engine sees it: a sequence, and the ticks that wait to extend it.

    ``token_ids`` is the full log of what is in the cells. Questions branch at ``now.position``;
    the sequence itself may already be further, inside a tick that is not complete.
    """

    work: int
    name: str
    budget: int
    sequence: Sequence
    ticks: TickQueue
    now: Mark = field(default_factory=lambda: Mark(0, 0, 0))
    token_ids: list[int] = field(default_factory=list)
    questions: dict[int, Question] = field(default_factory=dict)
    held_back: list[tuple[Tick, Question]] = field(default_factory=list)
    error: BaseException | None = None
    closed: bool = False


@dataclass(eq=False)
class Question:
    """One question or flash evaluation, from the ask to the last token."""

    work: int
    kind: Kind
    session: Ingest
    answer: Answer
    ids: list[int]
    sampling: Sampling
    choices: list[list[int]] = field(default_factory=list)
    choice_texts: list[str] = field(default_factory=list)
    after: Tick | None = None  # not before this tick is visible
    branch: Sequence | None = None
    choice_branches: list[Sequence] = field(default_factory=list)
    sampler: Sampler | None = None
    stream: TextStream | None = None

    @property
    def tail(self) -> int:
        """Tokens that must run in one step: the question's last, and the choices that follow it."""
        return 1 + sum(len(ids) - 1 for ids in self.choices)

    @property
    def prefill(self) -> int:
        """Tokens to run before the first result."""
        return len(self.ids) + self.tail - 1

    @property
    def cells(self) -> int:
        """Scratch cells it can ever need: the last sampled token is never run."""
        return self.prefill + (0 if self.choices else self.sampling.max_tokens - 1)

    def begin(self, tokens: Tokens) -> None:
        """Branch off the session's present and take the scratch cells."""
        session = self.session
        position = session.now.position
        self.branch = session.sequence.branch(position)
        if own := len(self.ids) + (0 if self.choices else self.sampling.max_tokens - 1):
            self.branch.grow(own, high=True)
        for ids in self.choices:
            child = self.branch.branch(position + len(self.ids))
            child.grow(len(ids) - 1, high=True)
            self.choice_branches.append(child)
        self.sampler = Sampler(self.sampling)
        self.stream = TextStream(tokens, self.sampling.stop)
        self.answer.begin(session.token_ids, position, session.now.version, session.now.rows)

    def drop(self) -> None:
        """Give the scratch cells back and let go of the session's."""
        for branch in [*self.choice_branches, *([self.branch] if self.branch else [])]:
            branch.drop()
        self.branch, self.choice_branches = None, []
