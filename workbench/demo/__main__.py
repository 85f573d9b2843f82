"""``python -m workbench.demo``: three sessions, live data, standing questions, latency by context.

The embedded model reads the weekly prices that ship with plotly and two made-up markets while
flash queries follow them. At six context sizes it is asked questions, with the truth that polars
computes beside each answer, and timed against plain transformers that read everything again. The
run ends with a table and a figure (an HTML file that opens offline).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tqdm import tqdm

import workbench as wb
from workbench.demo.points import Point, table, write_figure
from workbench.demo.truths import (
    SIDES,
    UP_DOWN,
    Truth,
    average,
    bar_direction,
    direction,
    last,
    side,
)
from workbench.errors import WorkbenchError
from workbench.streams.market import market
from workbench.streams.render import schema_for
from workbench.tape import weights_path
from workbench_kernels import native

PROMPT = "You watch the tape."
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # of the data, where questions are asked
QUICK_FRACTIONS = (1 / 2, 1.0)
QUICK_BARS = 24
RATE = 30.0  # bars per second
LINES_PER_FLASH = 5  # changes of one flash query that are printed; the rest are counted
REPEATS = 5  # of a timed ask
TRUSTED = 8_192  # tokens of context up to which the card of the embedded model was measured
WIDTH = 100


@dataclass(frozen=True)
class Asked:
    """A question about one session, and its truth as of some rows (None: too few, or a tie)."""

    text: Callable[[pl.DataFrame], str]
    truth: Truth
    choices: tuple[str, ...] | None = None


@dataclass
class Desk:
    """One session with its data, its questions and its standing question."""

    session: wb.Session
    frame: pl.DataFrame
    questions: list[Asked]
    standing: Asked
    standing_name: str
    flash: wb.FlashQuery | None = None
    changes: int = 0


@dataclass
class Report:
    """What the run has shown so far."""

    points: list[Point] = field(default_factory=list)
    near: list[bool] = field(default_factory=list)  # was it right, in contexts the card trusts
    far: list[bool] = field(default_factory=list)  # beyond them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _parser().parse_args(arguments)
    began = time.perf_counter()
    report = Report()
    code = 0
    try:
        _check(options)
        # What is timed is asked again and again: its answer is not to be guessed from the last.
        with wb.Engine(speculate=False) as engine:
            try:
                _play(engine, options, report)
            except KeyboardInterrupt:
                print("\nstopped; this is what was measured until then")
                code = 130
        if report.points:
            print(table(report.points))
            write_figure(report.points, options.out)
            print(f"figure: {options.out}")
        print(f"{time.perf_counter() - began:.0f} s in all")
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (WorkbenchError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.demo",
        description="Three sessions on the embedded model, live data, questions with the truth "
        "beside them, and latency as the context grows. Offline, a minute at most; Ctrl-C stops "
        "it and shows what was measured so far.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--bars", type=int, default=300, metavar="N",
        help="bars of each made-up market; one is about 19 tokens",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("out/latency.html"), metavar="FILE",
        help="where to write the figure",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true",
        help=f"a few seconds: {QUICK_BARS} bars, as fast as they go, two context sizes",
    )  # fmt: skip
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.quick:
        options.bars = min(options.bars, QUICK_BARS)
    if options.bars < QUICK_BARS:
        msg = f"--bars {options.bars}: expected at least {QUICK_BARS}"
        raise WorkbenchError(msg)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.out.is_dir():
        msg = f"--out {options.out}: expected a file, got a folder"
        raise WorkbenchError(msg)


# The run.


def _play(engine: wb.Engine, options: argparse.Namespace, report: Report) -> None:
    parameters = sum(p.numel() for p in engine.decoder.model.parameters())
    print(
        f"{engine.model_name}: {parameters / 1e6:.1f} M parameters, "
        f"{str(engine.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"
    )
    if engine.device == "cpu" and native.reason():
        print(f"the compiled kernels are not in use: {native.reason()}")
    plain = engine.call(lambda: _plain_model(engine))
    desks = _open(engine, options)
    for desk in desks:
        _watch(desk)
    fractions = QUICK_FRACTIONS if options.quick else FRACTIONS
    bars = [_bar(desk) for desk in desks]
    try:
        for fraction in fractions:
            _flow(desks, bars, fraction, None if options.quick else RATE)
            _ask(desks, report)
            report.points.append(_time(engine, desks[0], plain))
    finally:
        for bar in bars:
            bar.close()
        print(_summary(desks, report))


def _open(engine: wb.Engine, options: argparse.Namespace) -> list[Desk]:
    frames = {
        "btc": market(options.bars, seed=7, symbols=("BTC",), start=68_000.0),
        "eth": market(options.bars, seed=11, symbols=("ETH",), start=3_500.0),
        "stocks": _stocks(options.quick),
    }
    for name, frame in frames.items():
        _check_length(engine, name, frame)
    last_close = Asked(lambda _: "What was the last close?", last("c"))
    trend = Asked(lambda _: "Up or down over the last 10 bars?", direction("c", 10), UP_DOWN)
    volume = Asked(lambda _: "What was the last volume?", last("v"))
    bar = Asked(lambda _: "Was the last bar up or down?", bar_direction, UP_DOWN)
    short_trend = Asked(lambda _: "Up or down over the last 5 bars?", direction("c", 5), UP_DOWN)
    level = Asked(lambda seen: f"Is the close above or below {average(seen)}?", side, SIDES)
    goog = Asked(lambda _: "What was the last value of GOOG?", last("GOOG"))
    aapl = Asked(lambda _: "What was the last value of AAPL?", last("AAPL"))
    msft = Asked(lambda _: "What was the last value of MSFT?", last("MSFT"))
    # Only what the model's card says it does; six columns are more than it reads surely.
    made = {
        "btc": ("ohlcv", [last_close, volume], trend, "trend over 10 bars"),
        "eth": ("ohlcv", [last_close, short_trend, level], bar, "last bar"),
        "stocks": (None, [goog, aapl], msft, "last value of MSFT"),
    }
    return [
        Desk(engine.open(name, prompt=PROMPT, schema=schema), frames[name], asked, standing, label)
        for name, (schema, asked, standing, label) in made.items()
    ]


def _stocks(quick: bool) -> pl.DataFrame:
    """Weekly prices of six companies, 2018 and 2019, relative to the first week."""
    import plotly.data

    stocks = plotly.data.stocks(return_type="polars")
    return stocks.head(QUICK_BARS) if quick else stocks


def _check_length(engine: wb.Engine, name: str, frame: pl.DataFrame) -> None:
    rows = schema_for("ohlcv" if "o" in frame.columns else None).render(frame.to_dicts())
    tokens = len(engine.tokens.data(rows))
    room = 16_384 - 512  # a session's usual budget, less prompt, question and answer
    if tokens > room:
        msg = (
            f"session {name!r} would hold {tokens:,} tokens of {frame.height:,} rows, the model "
            f"reads {room:,}; use at most --bars {frame.height * room // tokens:,}"
        )
        raise WorkbenchError(msg)


def _watch(desk: Desk) -> None:
    """Register the standing question, and print how its answer changes."""

    def changed(query: wb.FlashQuery) -> None:
        answer = query.answer
        truth = None if answer is None else desk.standing.truth(desk.frame.head(answer.row))
        if answer is None or truth is None:
            return  # too early to tell
        desk.changes += 1
        if desk.changes > LINES_PER_FLASH:
            return
        more = "; more: counted" if desk.changes == LINES_PER_FLASH else ""
        _say(
            f"  {desk.session.name:<7}flash query at row {answer.row}: {desk.standing_name} "
            f"{_short(answer.text)} ({answer.confidence:.0%}), polars: {truth}{more}"
        )

    desk.flash = desk.session.flash(
        desk.standing.text(desk.frame), choices=desk.standing.choices, on_change=changed
    )


def _flow(desks: list[Desk], bars: list[tqdm], fraction: float, rate: float | None) -> None:
    """Stream every session up to ``fraction`` of its data, all of them at once."""
    feeds = []
    longest = max(desk.frame.height for desk in desks)
    for desk in desks:
        sent = desk.session.rows
        more = desk.frame.slice(sent, max(0, round(desk.frame.height * fraction) - sent))
        pace = None if rate is None else rate * desk.frame.height / longest
        feeds.append(desk.session.stream(more, rate=pace, progress=False))
    try:
        while not all(feed.done for feed in feeds):
            for desk, bar in zip(desks, bars, strict=True):
                _show(desk, bar)
            time.sleep(0.05)
        for feed in feeds:
            feed.wait()
    finally:
        for feed in feeds:
            feed.stop()
        for desk, bar in zip(desks, bars, strict=True):
            _show(desk, bar)


def _bar(desk: Desk) -> tqdm:
    return tqdm(
        total=desk.frame.height, desc=f"{desk.session.name:<7}", unit=" rows", ncols=WIDTH,
        bar_format="{desc}{percentage:3.0f}%|{bar:28}| {n_fmt} of {total_fmt} rows{postfix}",
        disable=None,  # without a terminal there is nothing to redraw
    )  # fmt: skip


def _show(desk: Desk, bar: tqdm) -> None:
    answer = desk.flash.answer if desk.flash else None
    said = "" if answer is None else f", {desk.standing_name}: {answer.text}"
    bar.set_postfix_str(f"{desk.session.position:,} tokens{said}", refresh=False)
    bar.update(desk.session.rows - bar.n)


def _ask(desks: list[Desk], report: Report) -> None:
    """Ask every session its questions, and print the truth beside each answer."""
    for desk in desks:
        for asked in desk.questions:
            seen = desk.frame.head(desk.session.rows)
            truth = asked.truth(seen)
            if truth is None:
                continue
            answer = desk.session.ask(asked.text(seen), choices=asked.choices, max_tokens=12)
            is_right = answer.text.strip() == truth
            (report.near if answer.position <= TRUSTED else report.far).append(is_right)
            _say(
                f"  {desk.session.name:<7}{asked.text(seen):<47}{_short(answer.text):<14}"
                f"polars: {truth:<8} {'hit ' if is_right else 'miss'}{answer.ttft_ms:6.1f} ms"
            )


def _time(engine: wb.Engine, desk: Desk, plain: Any) -> Point:
    """Time an ask, a flash hit, and plain transformers reading the same tokens again."""
    question = desk.questions[0].text(desk.frame)
    answers = [desk.session.ask(question, max_tokens=8) for _ in range(REPEATS)]
    flash = desk.flash
    assert flash is not None
    while not flash.is_fresh:
        if flash.error is not None:
            raise flash.error
        time.sleep(0.002)
    hits = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        hit = desk.session.ask(flash.question, choices=flash.choices)
        hits.append((time.perf_counter() - began) * 1e3)
        assert hit.from_flash
    ids = torch.tensor([answers[0].input_ids])

    def read_again() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            plain(input_ids=ids, use_cache=False, logits_to_keep=1)
        return (time.perf_counter() - began) * 1e3

    # In the engine's thread, as everything that computes: see `workbench.waiting.aside`.
    again = [engine.call(read_again) for _ in range(2)]
    point = Point(
        context=answers[0].position,
        ttft_ms=statistics.median(answer.ttft_ms for answer in answers),
        total_ms=statistics.median(answer.total_ms for answer in answers),
        flash_ms=statistics.median(hits),
        again_ms=min(again),
    )
    _say(
        f"  at {point.context:,} tokens: first token of an answer after {point.ttft_ms:.1f} ms, "
        f"reading it all again takes {point.again_ms:,.0f} ms\n"
    )
    return point


def _plain_model(engine: wb.Engine) -> Any:
    """The same weights in plain transformers, with its fastest attention on a CPU."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            weights_path(), dtype=engine.dtype, attn_implementation="sdpa"
        ).eval()
    finally:
        logging.enable_progress_bar()


# What is shown at the end.


def _summary(desks: list[Desk], report: Report) -> str:
    beyond = f", {sum(report.far)} of {len(report.far)} beyond" if report.far else ""
    lines = [
        f"questions: {sum(report.near)} of {len(report.near)} as polars says up to {TRUSTED:,} "
        f"tokens{beyond} (see the model's card)"
    ]
    for desk in desks:
        if desk.flash is None:
            continue
        truths = [(a.text, desk.standing.truth(desk.frame.head(a.row))) for a in desk.flash.answers]
        known = [(said, truth) for said, truth in truths if truth is not None]
        right = sum(said == truth for said, truth in known)
        lines.append(
            f"flash query of {desk.session.name} ({desk.standing_name}): "
            f"{desk.flash.evaluations} answers, {right} of {len(known)} as polars says, "
            f"{desk.changes} changes"
        )
    return "\n".join(lines)


def _short(text: str) -> str:
    """An answer as one word of a line."""
    said = " ".join(text.split()) or "(nothing)"
    return said if len(said) <= 13 else said[:12] + "…"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
