"""A peer's side of the race: commands come as lines of JSON, answers go back, times are taken here.

Standard library only: this runs in every peer's own environment, where workbench is not installed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timetable import LEAD_S, Timetable

PAUSE_S = 0.02  # before something is timed: threads of whatever ran before stop spinning
PR_SET_PDEATHSIG = 1
LEAST_ROUNDS = 2  # of standing questions, whatever they take: the first warms up


class Reply:
    """A greedy answer.

    Attributes:
        ids: its tokens.
        first_at: `time.perf_counter` when the first of them was known.
        logprobs: natural-log probability of each, where they were asked for.
        chances: of a choice, the share of each label among the labels.
    """

    def __init__(
        self,
        ids: Sequence[int],
        first_at: float | None = None,
        logprobs: Sequence[float] | None = None,
        chances: Sequence[float] | None = None,
    ) -> None:
        self.ids = list(ids)
        self.first_at = first_at
        self.logprobs = logprobs
        self.chances = chances


class Question:
    """What is asked.

    Attributes:
        ids: the question's tokens.
        tokens: how many the answer has, exactly.
        choices: tokens one of which is the answer; then ``tokens`` is 1.
        scored: log-probabilities are wanted too; such an answer's time does not count.
        words: the question as text, of standing questions.
    """

    def __init__(
        self, ids: list[int], tokens: int, choices: list[int] | None, scored: bool, words: str = ""
    ) -> None:
        self.ids = ids
        self.tokens = tokens
        self.choices = choices
        self.scored = scored
        self.words = words


class Round:
    """What became of the standing questions after one bar.

    Attributes:
        replies: one for each, in their order.
        last_at: `time.perf_counter` when the last of them was known.
        read_at: the same of the bar, None where it is read with the questions.
    """

    def __init__(self, replies: list[Reply], last_at: float, read_at: float | None) -> None:
        self.replies = replies
        self.last_at = last_at
        self.read_at = read_at


class Peer:
    """One engine. ``begin`` and ``end`` are not timed, ``arrive`` and ``ask`` are.

    Every measured question is: ``begin`` (the first ``length`` tokens of the context are visible),
    ``arrive`` once per bar, ``settle`` (whatever is done in idle time), ``ask``, ``end``. Standing
    questions are: ``begin``, ``watch``, ``refresh`` once per bar (this is timed), ``end``.
    """

    packages: Sequence[str] = ()
    watched: Sequence[Question] = ()

    def about(self) -> dict[str, Any]:
        """Types of weights and cache, and settings that decide speed."""
        return {}

    def fill(self, ids: list[int]) -> None:
        """Take the context in; ``ids`` begins with what was filled before."""

    def begin(self, mode: str, length: int, room: int) -> None:
        """Go to the state in which the first ``length`` tokens of the context are visible.

        ``room`` tokens will come: bars, question and answer.
        """

    def arrive(self, mode: str, ids: list[int]) -> None:
        """One bar more; an engine that reads only when asked just remembers it."""

    def settle(self, mode: str) -> None:
        """What an engine does by itself before anyone asks; it counts as work of the arrivals."""

    def ask(self, mode: str, question: Question) -> Reply:
        """Answer with exactly so many tokens."""
        raise NotImplementedError

    def end(self, mode: str) -> None:
        """Forget the bars and the question."""

    def watch(self, mode: str, questions: Sequence[Question]) -> None:
        """These questions are to be answered after every bar from now on."""
        self.watched = questions

    def refresh(self, mode: str, ids: list[int]) -> Round:
        """One bar more, then an answer to each standing question: one by one, if not overridden."""
        self.arrive(mode, ids)
        read_at = last_at = time.perf_counter()
        replies = []
        for question in self.watched:
            replies.append(self.ask(mode, question))
            last_at = time.perf_counter()
            self.forget(mode)
        return Round(replies, last_at, read_at)

    def forget(self, mode: str) -> None:
        """Go back to before the latest question; only who answers one by one needs it."""
        raise NotImplementedError

    def mix(self, mode: str, table: Timetable) -> None:
        """Many sessions: read each one's context, ``table.begin()``, do what becomes due."""
        raise NotImplementedError

    def score(self, length: int, ids: list[int], answer: list[int]) -> dict[str, Any]:
        """Log-probabilities of an answer to ``ids`` after the context; only the judge has it."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything."""


def serve(make: Callable[[dict[str, Any]], Peer]) -> None:
    """Answer commands until there are no more of them.

    ``make`` gets the settings of the referee and returns the peer; what is printed meanwhile, by
    the engine or by anything it starts, goes to standard error.
    """
    _end_with_the_referee()
    wire = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    peer: Peer | None = None
    context: list[int] = []
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "open":
                context = json.loads(_read(command["settings"]["material"]))["context"]
                began = time.perf_counter()
                peer = make(command["settings"])
                answer = peer.about() | {
                    "seconds": time.perf_counter() - began,
                    "versions": versions(peer.packages),
                }
            elif peer is None:
                answer = {"error": f"{command['do']} before open"}
            elif command["do"] == "fill":
                began = time.perf_counter()
                peer.fill(context[: command["length"]])
                answer = {"seconds": time.perf_counter() - began}
            elif command["do"] == "trial":
                answer = trial(peer, command)
            elif command["do"] == "standing":
                answer = standing(peer, command)
            elif command["do"] == "mix":
                answer = mix(peer, command)
            elif command["do"] == "score":
                answer = peer.score(command["length"], command["ids"], command["answer"])
            else:
                answer = {"error": f"unknown command {command['do']!r}"}
        except ModuleNotFoundError as error:
            answer = {"error": f"{error}", "missing": (error.name or "").partition(".")[0]}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        wire.write(json.dumps(answer) + "\n")
        wire.flush()
    if peer is not None:
        peer.close()


def trial(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """One measured question, from the same state as every other one."""
    mode = command["mode"]
    question = Question(
        command["question"], command["tokens"], command.get("choices"), command["scored"]
    )
    room = sum(map(len, command["bars"])) + len(question.ids) + question.tokens
    peer.begin(mode, command["length"], room)
    try:
        time.sleep(PAUSE_S)
        arrivals = []
        for bar in command["bars"]:
            began = time.perf_counter()
            peer.arrive(mode, bar)
            arrivals.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        peer.settle(mode)
        settled = (time.perf_counter() - began) * 1e3
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        reply = peer.ask(mode, question)
        ended = time.perf_counter()
    finally:
        peer.end(mode)
    if len(reply.ids) != question.tokens:
        return {"error": f"expected {question.tokens} tokens, got {len(reply.ids)}"}
    return {
        "arrivals_ms": arrivals,
        "settled_ms": settled,
        "ttft_ms": ((reply.first_at or ended) - began) * 1e3,
        "total_ms": (ended - began) * 1e3,
        "ids": reply.ids,
        "logprobs": None if reply.logprobs is None else list(reply.logprobs),
        "chances": None if reply.chances is None else list(reply.chances),
    }


def standing(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """The same questions after every bar; the answers of the last round come along."""
    mode, bars = command["mode"], command["bars"]
    tokens, choices, scored = command["tokens"], command.get("choices"), command["scored"]
    questions = [
        Question(ids, tokens, choices, scored, words)
        for ids, words in zip(command["questions"], command["words"], strict=True)
    ]
    room = sum(map(len, bars)) + max(len(question.ids) for question in questions) + tokens
    rounds: list[dict[str, Any]] = []
    found: Round | None = None
    peer.begin(mode, command["length"], room)
    try:
        peer.watch(mode, questions)
        until = time.perf_counter() + command["budget_s"]
        for bar in bars:
            if len(rounds) >= LEAST_ROUNDS and time.perf_counter() > until:
                break
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            found = peer.refresh(mode, bar)
            read = None if found.read_at is None else (found.read_at - began) * 1e3
            rounds.append({"read_ms": read, "total_ms": (found.last_at - began) * 1e3})
    finally:
        peer.end(mode)
    assert found is not None
    lengths = sorted({len(reply.ids) for reply in found.replies})
    if lengths != [tokens] or len(found.replies) != len(questions):
        return {
            "error": f"expected {len(questions)} answers of {tokens} tokens, got "
            f"{len(found.replies)} of {lengths}"
        }
    return {
        "rounds": rounds,
        "answers": [
            {
                "ids": reply.ids,
                "logprobs": None if reply.logprobs is None else list(reply.logprobs),
                "chances": None if reply.chances is None else list(reply.chances),
            }
            for reply in found.replies
        ],
    }


def mix(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """A timetable of many sessions, in real time."""
    table = Timetable(command)
    began = time.perf_counter()
    peer.mix(command["mode"], table)
    return table.result() | {"reading_s": table.zero - LEAD_S - began}


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Python's version and those of an engine's packages."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _end_with_the_referee() -> None:
    """A referee that is killed may leave its peers stopped: the system ends them, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(path: str) -> str:
    return Path(path).read_text()
