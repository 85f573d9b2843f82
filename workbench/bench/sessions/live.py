"""The arrivals sent to a real engine: one thread pushes and asks, completions say when it was done.

With ``alone``, the same arrivals go to a plain loop afterwards (`alone.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import workbench as wb
from workbench.bench import machine
from workbench.bench.contenders import PROMPT
from workbench.bench.model import TAPE, model_folder
from workbench.bench.sessions import alone
from workbench.bench.sessions.arrivals import Arrival, Sizes, What, Workload, arrivals
from workbench.bench.sessions.material import Material, prepare
from workbench.bench.sessions.measure import FlashDone, Log, summary
from workbench.bench.sessions.neighbours import Neighbours
from workbench.bench.sessions.pace import Pace
from workbench.bench.stream import SCHEMA
from workbench.engine.tokens import Tokens
from workbench.errors import WorkbenchError
from workbench.events import Event, FlashAnswered, Planned
from workbench.metrics import percentile
from workbench.waiting import Completion

OURS = "workbench"
WATERMARK = 4096  # cells for questions and flash evaluations
MARGIN = 64  # cells of a session beyond what it will need


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        model: "tape", the embedded one, or a key of `SIZES`, made on the spot with random weights.
        dtype: "auto", "bfloat16" or "float32".
        threads: of torch; None leaves them as they are.
        drain: seconds to wait, after the last arrival, for what is under way.
        alone: run the plain one-at-a-time loop as well.
    """

    model: str = TAPE
    dtype: str = "auto"
    threads: int | None = None
    drain: float = 60.0
    alone: bool = False


def run(
    workload: Workload, options: Options, command: str, *, progress: bool = True
) -> dict[str, Any]:
    """Measure in real time; returns everything as plain values, ready for JSON.

    Raises:
        WorkbenchError: a limit of the engine is hit, or something sent ended with an error.
    """
    began = dt.datetime.now(dt.UTC)
    if options.threads is not None:
        if options.threads < 1:
            msg = f"threads {options.threads}: expected at least 1"
            raise WorkbenchError(msg)
        torch.set_num_threads(options.threads)
    due = arrivals(workload)
    if not due:
        msg = f"nothing arrives within {workload.seconds:g} s; expected a tick or a question"
        raise WorkbenchError(msg)
    where = machine.describe(torch.get_num_threads())
    with model_folder(options.model, workload.seed) as folder:
        material = prepare(workload, due, Tokens(AutoTokenizer.from_pretrained(folder), []))
        ours, known = _ours(folder, workload, options, due, material, progress=progress)
        gc.collect()  # the engine's weights and cells, before anyone else has any
        systems = [ours]
        failed = None
        if options.alone:
            dtype = getattr(torch, known["model"]["dtype"])
            try:
                systems.append(
                    alone.run(folder, dtype, workload, due, material,
                              drain=options.drain, progress=progress)
                )  # fmt: skip
            except (Exception, KeyboardInterrupt) as error:  # ours has been measured all the same
                failed = repr(error)
    return {
        "benchmark": "sessions",
        "command": command,
        "began": began.isoformat(timespec="seconds"),
        "duration_s": round((dt.datetime.now(dt.UTC) - began).total_seconds(), 1),
        "versions": machine.versions(),
        "machine": where,
        "workload": asdict(workload),
        "drain": options.drain,
        "watermark": WATERMARK,
        **known,
        "alone_failed": failed,
        "systems": systems,
    }


def _ours(
    folder: Path,
    workload: Workload,
    options: Options,
    due: Sequence[Arrival],
    material: Material,
    *,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The engine's measurements, and what is known of it afterwards."""
    cells = workload.sessions * (material.longest + MARGIN) + WATERMARK
    with wb.Engine(
        folder, dtype=options.dtype, watermark=WATERMARK, cells=cells, speculate=False
    ) as engine:
        # Answers have the length asked for, here as in the plain loop.
        engine.tokens.eos_ids = frozenset()
        live = _Live(engine, workload, due, material)
        measured = live.run(options.drain, progress=progress)
        assert engine.scheduler.cost is not None
        return measured, {
            "model": {"name": options.model, "dtype": str(engine.dtype).removeprefix("torch.")},
            "limits": asdict(engine.scheduler.limits),
            "cost": engine.scheduler.cost.coefficients,
            "sizes": asdict(live.sizes()),
        }


class _Live:
    """An engine with its sessions open and filled, and the log of one run."""

    def __init__(
        self, engine: wb.Engine, workload: Workload, due: Sequence[Arrival], material: Material
    ) -> None:
        self.engine, self.workload, self.due, self.material = engine, workload, due, material
        self.log = Log(workload.seconds)
        self._sent: dict[int, Completion] = {}
        self._predictions: list[tuple[float, float]] = []  # of steps: predicted, and as it was
        self._over = False
        self._ticks = iter(material.ticks)
        self._sessions = self._open()
        self._index = {session.name: i for i, session in enumerate(self._sessions)}
        self._versions = [session.version for session in self._sessions]

    def _open(self) -> list[wb.Session]:
        material, positions = self.material, self.engine.decoder.max_positions
        most = material.longest + self.workload.question_tokens + self.workload.answer_tokens + 16
        if most > positions:
            msg = (
                f"a session and its questions come to {most:,} tokens, the model has {positions:,} "
                "positions; take fewer seconds or tokens per tick, a longer tick, or less context"
            )
            raise WorkbenchError(msg)
        sessions = []
        for index, rows in enumerate(material.fills):
            session = self.engine.open(
                f"s{index}", prompt=PROMPT, schema=SCHEMA, cells=material.longest + MARGIN,
                max_pending=1 + len(rows) + sum(map(len, material.ticks)),
            )  # fmt: skip
            sessions.append(session)
            session.push(rows)
        for session in sessions:
            session.flush()
            for name, words in enumerate(self.material.flash):
                session.flash(words, choices=material.choices, name=str(name))
        for session in sessions:
            for query in session.flash_queries:
                if session.version:
                    query.wait()
        return sessions

    def run(self, drain: float, *, progress: bool) -> dict[str, Any]:
        """Send everything and wait for it; returns the measurements as plain values."""
        neighbours = Neighbours()
        self.pace = Pace()
        unsubscribe = self.engine.events.subscribe(self._note)
        self.pace.send(self.due, self._send, self.workload.seconds, progress=progress)
        for sent in self._sent.values():
            with contextlib.suppress(TimeoutError):
                sent.join(max(0.0, self.workload.seconds + drain - self.pace.now))
        self._over = True
        unsubscribe()
        self.log.close(len(self.due), self.pace.now)
        errors = [abs(a - b) / b for a, b in self._predictions if a > 0]
        return {
            "system": OURS,
            **summary(
                self.due, self.log, sessions=self.workload.sessions, flash=self.workload.flash
            ),
            "others_cpu": neighbours.share(),
            "sent_late_ms_p99": percentile(self.pace.late_s, 0.99) * 1e3,
            "step_prediction_error_p50": percentile(errors, 0.5),
            "done_s": {index: round(at, 5) for index, at in sorted(self.log.done.items())},
        }

    def _send(self, index: int, arrival: Arrival) -> None:
        session = self._sessions[arrival.session]
        sent: Completion
        if arrival.what is What.TICK:
            sent = session.push(next(self._ticks))
        elif arrival.what is What.CHOICES:
            sent = session.ask_start(self.material.question, choices=self.material.choices)
        else:
            sent = session.ask_start(self.material.question, max_tokens=self.workload.answer_tokens)
        self._sent[index] = sent
        sent.when_done(self._ended(index, arrival, sent))

    def _ended(self, index: int, arrival: Arrival, sent: Completion) -> Callable[[], None]:
        def note() -> None:
            if self._over or sent.error is not None:
                return
            self.log.done[index] = self.pace.now
            if isinstance(sent, wb.Answer):
                after_s = (sent.total_ms - sent.ttft_ms) / 1e3
                self.log.first[index] = self.log.done[index] - after_s

        return note

    def _note(self, event: Event) -> None:
        """Called in the engine thread."""
        now = self.pace.now
        if isinstance(event, Planned):
            self.log.ran(
                now, event.duration_s, decode=event.decode, question=event.question,
                ingest=event.ingest, flash=event.flash,
            )  # fmt: skip
            self._predictions.append((event.predicted_s, event.duration_s))
        elif isinstance(event, FlashAnswered):
            assert event.session is not None
            session = self._index[event.session]
            version = event.version - self._versions[session]
            self.log.flash.append(FlashDone(now, session, int(event.flash), version))

    def sizes(self) -> Sizes:
        """What the arrivals weighed."""
        tokens, material = self.engine.tokens, self.material
        accepted = [sent.accepted for sent in self._sent.values() if isinstance(sent, wb.Answer)]
        return Sizes(
            ticks=material.tick_tokens,
            contexts=material.contexts,
            question=len(tokens.question(material.question)),
            flash=max((len(tokens.question(words)) for words in material.flash), default=0),
            more_choices=sum(len(tokens.choice(choice)) - 1 for choice in material.choices),
            accepted=accepted,
        )
