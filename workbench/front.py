"""The engine as people hold it: a model, and sessions by name."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from workbench.answer import Answer
from workbench.audit import Audit, audit
from workbench.engine.admission import Opening, SessionSpec
from workbench.engine.calibrate import calibrate
from workbench.engine.floor import Floor, weights_bandwidth
from workbench.engine.holdings import Holding, holdings
from workbench.engine.memory import pool_size
from workbench.engine.model import Decoder, load
from workbench.engine.tokens import Tokens
from workbench.engine.work import Ingest, Overflow
from workbench.errors import (
    CellsExhausted,
    EngineClosed,
    SessionNotFound,
    WorkbenchError,
)
from workbench.events import SessionOpened
from workbench.flash.board import FlashBoard
from workbench.metrics import EngineStats, Metrics, percentile
from workbench.opening import check_wait, spec_of
from workbench.progress import Stages
from workbench.scheduler.cost import CostModel
from workbench.scheduler.scheduler import StepLimits
from workbench.session import Session
from workbench.snapshot import restore
from workbench.stateless import StatelessEngine
from workbench.streams.render import Schema
from workbench.tape import weights_path
from workbench.tick import OnFull

T = TypeVar("T")

_engines: list[weakref.ref[Engine]] = []  # of this process, in the order they were opened


def _each(act: Callable[[T], object], things: list[T]) -> None:
    for thing in things:
        act(thing)


class Engine(StatelessEngine):
    """A model held in memory, and the sessions that share it.

    Args:
        model: None for the embedded default, a Hugging Face id, a folder written by
            ``save_pretrained``, or a loaded ``(model, tokenizer)`` pair, whose bfloat16 products
            are packed in place where the compiled CPU kernel is in use: it still computes the
            same and saves the same, but without gradients. Outside the engine it runs again after
            ``model.set_attn_implementation("sdpa")``, once the engine is closed. A pair runs where
            it is and in its own dtype.
        cells: size of the pool in tokens; None takes 65,536, or what half of the available memory
            holds if that is less; on a GPU nine tenths of what is free after the weights.
        template: what the model's chat template is told besides the messages, such as
            ``{"enable_thinking": False}`` for one that would think before it answers: a closed
            question is scored where its reply begins.
        dtype: "auto" (bfloat16 where the CPU multiplies it in hardware, else float32),
            "bfloat16", "float32".
        device: "auto" (the CPU), "cpu", or "cuda", whose attention runs on the Triton kernels; that
            has been run in Triton's interpreter, and compiled, but not yet on a GPU.
        graphs: on a GPU, capture short steps as CUDA graphs; off for looking into a model's code.
        threads: CPU threads of torch for this engine, and for whatever starts later in the process;
            None leaves them as they are.
        watermark: cells kept for questions; None takes an eighth of the pool, but at least 512, or
            half of a smaller one.
        limits: sizes of a step; None measures at start-up how many tokens a step may have before
            more of them no longer make it more efficient (a fraction of a second).
        speculate: guess tokens of greedy answers from what the context repeats (prompt lookup), and
            from what the same question was answered last; the model verifies them, so answers
            stay the same.
        cost: what steps cost, to begin with; None measures it likewise, unless ``limits`` is given.
            It learns from every step.
        progress: say what it is busy with, if loading takes longer than a moment.
        start: run the engine thread; tests turn it off and call ``step`` themselves.

    Raises:
        ModelError, UnsupportedModel: the model cannot be loaded, or not be run exactly.
        CellsExhausted: the pool does not fit in memory.
    """

    def __init__(
        self,
        model: str | Path | tuple[Any, Any] | None = None,
        *,
        cells: int | None = None,
        template: Mapping[str, Any] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        graphs: bool = True,
        threads: int | None = None,
        watermark: int | None = None,
        limits: StepLimits | None = None,
        speculate: bool = True,
        cost: CostModel | None = None,
        progress: bool = True,
        start: bool = True,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        source = weights_path() if model is None else model
        # What it was opened with: a folder, whole, or an id; None for what was not loaded.
        self.source = _source(model)

        def start_up(stages: Stages) -> tuple[Decoder, Any, StepLimits, CostModel | None]:
            decoder, tokenizer = load(source, dtype, device, stages.at)
            if not graphs:
                decoder.graphs = None
            if limits is not None:
                return decoder, tokenizer, limits, cost
            stages.at("measuring steps")
            measured_limits, measured = calibrate(decoder)
            return decoder, tokenizer, measured_limits, cost or measured

        name = "tape" if model is None else "model" if isinstance(model, tuple) else str(model)
        if Path(name).is_dir():
            name = Path(name).name
        stages = Stages(name, show=progress and model is not None)
        decoder, tokenizer, limits, cost = stages.run(start_up)
        if model is None:
            decoder.name = name
        largest = max(max(shape.k_dim, shape.v_dim) for shape in decoder.layers.values())
        num_cells = pool_size(cells, decoder.bytes_per_cell, decoder.device, largest)
        kept = max(num_cells // 8, min(512, num_cells // 2)) if watermark is None else watermark
        if not 0 < kept < num_cells:
            msg = f"watermark={watermark}: expected 1 to {num_cells - 1:,} cells"
            raise CellsExhausted(msg)
        self._sessions: dict[str, Session] = {}
        self._push_locks: dict[Ingest, threading.Lock] = {}
        self.measured_bandwidth: float | None = None  # once `bandwidth` was asked for
        self.names_used: set[str] = set()  # of sessions that are open or were
        tokens = Tokens(tokenizer, _eos_ids(decoder.model, tokenizer), template)
        if not speculate:
            limits = dataclasses.replace(limits, draft_questions=0)
        super().__init__(decoder, tokens, num_cells=num_cells, watermark=kept, limits=limits,
                         cost=cost, start=start)  # fmt: skip
        self.board = FlashBoard(self)
        self._metrics = Metrics()
        self.events.subscribe(self._metrics.take)
        _engines[:] = [ref for ref in _engines if ref() is not None]
        _engines.append(weakref.ref(self))

    def open(
        self,
        name: str,
        *,
        prompt: str | None = None,
        schema: str | None = None,
        cells: int | None = None,
        overflow: Overflow = "error",
        window: int | None = None,
        evictable: bool = False,
        wait: bool | float = False,
        on_full: OnFull = "block",
        max_pending: int = 4096,
    ) -> Session:
        """Open a session: its cells are promised to it until it is closed.

        Args:
            name: how it is called; one open session per name.
            prompt: what the model reads before any row (the system turn of a chat template).
            schema: how rows read, such as "ohlcv"; None writes ``column=value``.
            cells: its budget in tokens; None takes 16,384, but at most what the model has
                positions and half of what the pool has for sessions.
            overflow: what it does when it is full. "error" refuses further rows. "rebuild"
                computes the latest ``window`` tokens again in the other half of its cells, in
                idle time, and swaps them in: always exact. "evict" lets the oldest rows go and
                keeps the positions of the others, whose keys remember what has left: approximate.
            window: tokens that a rebuilt window begins with at most, the prompt's included and
                in whole rows; None takes a quarter of ``cells``. It then grows, until at most half
                of ``cells`` are visible.
            evictable: others may have its cells while it is idle. Its log stays, and it is
                computed again when something is pushed or asked, or when there is idle time.
            wait: wait in line for cells instead of raising: True, or a number of seconds.
            on_full: what ``push`` does when ``max_pending`` rows wait: "block", "raise" or
                "drop_oldest".
            max_pending: rows that may wait.

        Raises:
            SessionExists, CellsExhausted, WorkbenchError: with the numbers; nothing is opened.
            TimeoutError: no cells after ``wait`` seconds; it no longer waits in line.
        """
        spec, columns = spec_of(self, name, prompt, schema, cells, overflow, window, evictable,
                                on_full, max_pending)  # fmt: skip
        return self.admit(spec, columns, prompt, wait)

    def admit(
        self, spec: SessionSpec, columns: Schema, prompt: str | None, wait: bool | float
    ) -> Session:
        """The session of a checked spec: at once, or after waiting in line, as `open` says."""
        check_wait(wait)
        if wait is False:
            return self._opened(self._called(lambda: self.admission.open(spec),
                                             self.admission.close), prompt, columns)  # fmt: skip
        if self._thread is threading.current_thread():
            msg = "open(wait=...) would stop the engine's own thread; open it from another"
            raise WorkbenchError(msg)
        opening = self._called(lambda: self.admission.queue(spec), self.admission.cancel)
        self.wake()
        try:
            opening.join(None if wait is True else wait)
        except TimeoutError:
            self._leave_line(opening)
            raise self._no_cells(spec, wait) from None
        except BaseException:
            self._leave_line(opening)
            raise
        assert opening.session is not None
        return self._opened(opening.session, prompt, columns)

    def restore(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        cells: int | None = None,
        wait: bool | float = False,
        compute: bool = False,
    ) -> Session:
        """Open the session that ``session.save`` wrote into a file, with its rows and versions.

        Its cells come from the file; the last few are computed again and compared, so that cells
        of another model are refused and not answered from. Flash queries are to be registered anew.

        Args:
            path: the file.
            name, cells: instead of its own name and budget in tokens.
            wait: as in `open`: wait in line for cells, True or seconds.
            compute: leave the file's cells alone and compute all of them: for another ``dtype``, or
                another model with the same tokenizer.

        Raises:
            FileNotFoundError: there is none. WorkbenchError: it is no such file, or of another
            model. SessionExists, CellsExhausted, TimeoutError: as `open`. Nothing is opened.
        """
        return restore(self, Path(path), name=name, cells=cells, wait=wait, compute=compute)

    async def open_async(
        self, name: str, *, wait: bool | float = True, **options: Any
    ) -> Session:
        """`open` for a coroutine, which waits in line for the cells unless it is told otherwise.

        Cancelling it leaves the line.
        """
        check_wait(wait)
        if wait is False:
            return self.open(name, **options)
        spec, columns = spec_of(self, name, **options)
        opening = self._called(lambda: self.admission.queue(spec), self.admission.cancel)
        self.wake()
        try:
            if not opening.done:
                await asyncio.wait_for(opening.join_async(), None if wait is True else wait)
            opening.join(0)
        except TimeoutError:
            self._leave_line(opening)
            raise self._no_cells(spec, wait) from None
        except BaseException:
            self._leave_line(opening)
            raise
        assert opening.session is not None
        return self._opened(opening.session, options.get("prompt"), columns)

    def _no_cells(self, spec: SessionSpec, wait: float) -> TimeoutError:
        return TimeoutError(
            f"session {spec.name!r} waited {wait} s for {spec.budget:,} cells, of which "
            f"{self.call(self.admission.room):,} can be promised now; close a session, or wait "
            "longer"
        )

    def _called(self, make: Callable[[], T], undo: Callable[[T], object]) -> T:
        """What ``make`` gives in the engine's thread; an interrupt takes that back."""
        made: list[T] = []
        try:
            self.call(lambda: made.append(make()))
        except Exception:
            raise
        except BaseException:
            if not self.closed:
                self.post(functools.partial(_each, undo, made))
            raise
        return made[0]

    def _leave_line(self, opening: Opening) -> None:
        if not self.closed:
            self.call(lambda: self.admission.cancel(opening))

    def _opened(self, ingest: Ingest, prompt: str | None, columns: Schema) -> Session:
        session = Session(self, ingest, prompt, columns)
        self._sessions[ingest.name] = session
        self.names_used.add(ingest.name)
        self.events.emit(SessionOpened(session=ingest.name, budget=ingest.budget,
                                       rows=ingest.now.rows))  # fmt: skip
        self.wake()
        return session

    def session(self, name: str) -> Session:
        """The open session of this name.

        Raises:
            SessionNotFound: there is none.
        """
        if name not in self._sessions:
            names = ", ".join(map(repr, self._sessions)) or "none"
            msg = f"no session {name!r} is open (open: {names}); open it with engine.open({name!r})"
            raise SessionNotFound(msg)
        return self._sessions[name]

    @property
    def sessions(self) -> dict[str, Session]:
        """The open sessions by name."""
        return dict(self._sessions)

    @property
    def model_name(self) -> str:
        """What the model is called."""
        return self.decoder.name

    @property
    def dtype(self) -> torch.dtype:
        """The type the model computes in, and the cells hold."""
        return self.decoder.dtype

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self.decoder.device

    @property
    def num_cells(self) -> int:
        """Size of the pool."""
        return self.pool.num_cells

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    def stats(self) -> EngineStats:
        """What the engine holds and has done, as of now."""
        seen = self._metrics
        ttft, lag = list(seen.ttft_ms), list(seen.lag_s)
        return EngineStats(
            model=self.model_name, dtype=str(self.dtype).removeprefix("torch."),
            device=self.device, num_cells=self.num_cells, free_cells=self.pool.num_free,
            promised_cells={name: s.budget for name, s in self.sessions.items()},
            kv_bytes=self.num_cells * self.decoder.bytes_per_cell, steps=seen.steps,
            ingested_tokens=seen.ingested_tokens, background_tokens=seen.background_tokens,
            shared_tokens=seen.shared_tokens, ticks=seen.ticks,
            dropped_rows=seen.dropped_rows, answers=seen.answers, flash_hits=seen.flash_hits,
            flash_evaluations=seen.flash_evaluations, evictions=seen.evictions,
            returns=seen.returns, rebuilds=seen.rebuilds, behind=seen.behind,
            drafted_tokens=seen.drafted_tokens, accepted_tokens=seen.accepted_tokens,
            ttft_ms_p50=percentile(ttft, 0.5),
            ttft_ms_p95=percentile(ttft, 0.95), lag_s_p50=percentile(lag, 0.5),
            lag_s_p95=percentile(lag, 0.95),
        )  # fmt: skip

    def audit(self, answer: Answer) -> Audit:
        """Compute an answer again with transformers' own attention and cache, and compare.

        It reads the answer's ``input_ids`` from the beginning, all choices of a closed one after
        them: what the answer took before there were sessions. Steps of others go on in between.
        Of a session with ``overflow="evict"`` that has let rows go, it shows what that changes.

        Args:
            answer: complete, of this engine; of any session, closed ones too, or of `generate`.

        Raises:
            QuestionError: it is under way, or failed without a token. EngineClosed.
        """
        return audit(self, answer)

    def holdings(self) -> list[Holding]:
        """Who holds which cells now; cells in several holdings are shared, in none free."""
        return self.call(lambda: holdings(self.core))

    @functools.cached_property
    def floor(self) -> Floor:
        """The bytes that an answer of this model must read."""
        return Floor.of(self.decoder.model, self.decoder.layers.values())

    @property
    def bandwidth(self) -> float:
        """Bytes per second at which this machine reads the weights: measured once, when asked for.

        The fastest of a few readings, since other programs may slow some of them. It takes as long
        as some ten forwards of one token, between two steps.
        """
        if self.measured_bandwidth is None:
            self.call(self._measure_bandwidth)
            assert self.measured_bandwidth is not None
        return self.measured_bandwidth

    def _measure_bandwidth(self) -> None:
        """In the engine's thread, so that whoever asks next finds it measured."""
        if self.measured_bandwidth is None:
            weights = [weight for weight in self.decoder.model.parameters() if weight.ndim > 1]
            self.measured_bandwidth = weights_bandwidth(weights, pick=min)

    def floor_ms(self, context: int, forwards: int = 1) -> float:
        """The least milliseconds an answer can take: the bytes it must read, at ``bandwidth``.

        Arithmetic and everything else count as free, so no engine on this machine gets below it.

        Args:
            context: tokens read before the answer, the question's included.
            forwards: one for a choice or a first token, and one for each token after it.
        """
        return self.floor.ms(context, 0, forwards, self.bandwidth)

    def push_lock(self, ingest: Ingest) -> threading.Lock:
        """Orders the pushes of one session, so that what is checked is what is queued."""
        return self._push_locks.setdefault(ingest, threading.Lock())

    def forget(self, session: Session) -> None:
        """A session was closed: its name is free."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
        self._push_locks.pop(session.ingest, None)

    def end_all(self, error: BaseException) -> None:
        """Tell every caller that it is over, whoever waits for a flash query too."""
        super().end_all(error)
        self.board.forget_all()

    def close(self, reason: str = "the engine was closed; open a new one with wb.Engine()") -> None:
        """Close every session and stop the engine thread."""
        super().close(reason)
        self.board.close()
        for session in self._sessions.values():
            session.end_feeds(EngineClosed(reason))
        self._sessions.clear()
        self._push_locks.clear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"Engine({self.model_name!r}, closed)"
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Engine({self.model_name!r}, {dtype} on {self.device}, "
            f"{len(self._sessions)} sessions, "
            f"{self.pool.num_free:,} of {self.num_cells:,} cells free)"
        )


def current_engine() -> Engine | None:
    """The newest engine of this process that is still open."""
    for ref in reversed(_engines):
        engine = ref()
        if engine is not None and not engine.closed:
            return engine
    return None


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    ids: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for owner in (generation, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ids.update([value] if isinstance(value, int) else value or ())
    return sorted(ids)


def _source(model: str | Path | tuple[Any, Any] | None) -> str | None:
    if not isinstance(model, (str, Path)):
        return None
    return str(Path(model).resolve() if Path(model).is_dir() else model)
