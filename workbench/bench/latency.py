"""How long an answer takes as the context grows: a session, plain transformers, the floor.

One session and the peers read the same stream of bars up to each context. There, round after
round, a bar arrives before each kind of question and everyone is asked the same 16 tokens, in an
order that rotates. Before that everyone must agree: log-probabilities of the session's answer are
compared with the peers', and beyond a stated bound nothing is measured.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from workbench.bench import machine
from workbench.bench.contenders import EIGHT, ONE, QUESTION_TOKENS, Contenders, Measured, Samples
from workbench.bench.model import make_model
from workbench.bench.report import summary
from workbench.bench.stream import bars, take
from workbench.engine.placement import auto_device
from workbench.engine.roofline import Roofline
from workbench.errors import WorkbenchError
from workbench.waiting import aside

BARS_A_ROUND = 3
MOST_TOKENS_A_BAR = 64
WARM_UP = 1  # rounds that are run and not counted


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        contexts: tokens before the question, ascending.
        repeats: rounds that count, per context.
        stateless_repeats: how many of them also ask the stateless peer, which takes long.
        size: of the model, a key of `SIZES`.
        dtype: "auto", "bfloat16" or "float32".
        threads: of torch.
        seed: of the model and of the stream.
        device: "cpu" or "cuda", of everyone.
        more_peers: a compiled static cache and continuous batching too; None: on a GPU.
    """

    contexts: tuple[int, ...] = (2_600, 5_000, 9_500, 19_000)
    repeats: int = 9
    stateless_repeats: int = 3
    size: str = "250m"
    dtype: str = "auto"
    threads: int = 2
    seed: int = 0
    device: str = "cpu"
    more_peers: bool | None = None


def run(options: Options, command: str, progress: bool = True) -> Iterator[dict[str, Any]]:
    """Measure; after each context yields everything so far as plain values, ready for JSON.

    Args:
        options: what to measure.
        command: the command line that repeats it, noted in the result.
        progress: show a progress bar on standard error.

    Raises:
        WorkbenchError: an answer differs from plain transformers' beyond the bound, or a limit of
            the engine is hit.
    """
    _check(options)
    began = dt.datetime.now(dt.UTC)
    buffer = machine.BUFFER_BYTES if options.size != "tiny" else machine.BUFFER_BYTES // 16
    torch.set_num_threads(options.threads)
    device = auto_device(options.device)
    where = machine.describe(options.threads, device)
    buffer_bandwidth = aside(lambda: machine.read_bandwidth(num_bytes=buffer, device=device))
    more = device != "cpu" if options.more_peers is None else options.more_peers
    rounds = WARM_UP + options.repeats
    cells = options.contexts[-1] + rounds * BARS_A_ROUND * MOST_TOKENS_A_BAR + 512
    with (
        tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder,
        tqdm(total=options.contexts[-1], unit=" tokens", disable=not progress) as bar,
    ):
        model = aside(lambda: make_model(Path(folder), options.size, options.seed, device))
        contenders = Contenders(Path(folder), cells=cells, dtype=options.dtype, seed=options.seed,
                                device=device, more=more)  # fmt: skip
        dtype = contenders.engine.dtype
        head = {
            "benchmark": "latency",
            "command": command,
            "began": began.isoformat(timespec="seconds"),
            "versions": machine.versions(),
            "source": machine.source(),
            "machine": where,
            "model": model | {"dtype": str(dtype).removeprefix("torch.")},
        }
        blocks = []
        try:
            peak = contenders.engine.call(lambda: machine.peak_flops(dtype, device))
            bandwidth = [contenders.bandwidth()]
            for context in options.contexts:
                blocks.append((context, *_measure(contenders, context, options, bar)))
                bandwidth.append(contenders.bandwidth())
                seconds = (dt.datetime.now(dt.UTC) - began).total_seconds()
                found = _found(options, contenders, blocks, bandwidth, buffer_bandwidth, peak)
                yield head | {"duration_s": round(seconds, 1)} | found
        finally:
            contenders.close()


def _found(
    options: Options,
    contenders: Contenders,
    blocks: list[tuple[int, dict[str, Any], Measured]],
    bandwidth: list[float],
    buffer_bandwidth: float,
    peak: tuple[float, str],
) -> dict[str, Any]:
    """What was measured so far; ``bandwidth`` before the first and after each context."""
    floor, arithmetic = contenders.floor, contenders.arithmetic
    flops_per_s, of = peak
    best = max(buffer_bandwidth, *bandwidth)  # nobody gets below a floor at this one
    roofline = Roofline(floor, arithmetic, best, flops_per_s)
    results = [
        summary(context, measured, roofline) | block for context, block, measured in blocks
    ]
    return {
        "settings": {
            "contexts": list(options.contexts),
            "repeats": options.repeats,
            "stateless_repeats": options.stateless_repeats,
            "warm_up_rounds": WARM_UP,
            "question_tokens": QUESTION_TOKENS,
            "seed": options.seed,
        },
        "floor": {
            "weight_bytes": floor.weight_bytes,
            "kv_bytes_per_token": floor.kv_bytes_per_token,
        },
        "bandwidth": {
            "of": "the session's own weights, read in turn",
            "of_a_fresh_buffer": buffer_bandwidth,
            "bytes_per_s": list(bandwidth),
            "best": best,
            "drift": max(bandwidth) / min(bandwidth) - 1,
        },
        "arithmetic": {
            "of": of,
            "flops_per_s": flops_per_s,
            "flops_per_token": arithmetic.token,
            "flops_of_the_head": arithmetic.head,
            "flops_per_token_seen": arithmetic.seen,
        },
        "unavailable": dict(contenders.unavailable),
        "contexts": results,
    }


def _measure(
    contenders: Contenders, context: int, options: Options, bar: tqdm
) -> tuple[dict[str, Any], Measured]:
    """Bring everyone to ``context``, compare, and measure round after round."""
    per_bar = _tokens_of_a_bar(contenders, options.seed)
    # The rounds that count lie half before and half after the context.
    ahead = int((WARM_UP + options.repeats / 2) * BARS_A_ROUND * per_bar)
    bar.set_description(f"reading up to {context:,} tokens")
    before = contenders.session.position
    for added in contenders.grow(max(context - ahead, context // 2)):
        bar.update(added)
    tokens = contenders.session.position - before
    # It attends over all of its room, so there is little more than the rounds will fill.
    rounds = WARM_UP + options.repeats
    contenders.preallocate(room=int(1.25 * rounds * BARS_A_ROUND * per_bar) + 64)
    bar.set_description(f"comparing at {contenders.session.position:,} tokens")
    block = {
        "equality": check(contenders.compare()),
        "reading": {"tokens": tokens, "seconds": contenders.reading_s},
    }
    measured: Measured = defaultdict(Samples)
    warm_up: Measured = defaultdict(Samples)
    for index in range(-WARM_UP, options.repeats):
        name = f"round {index + 1} of {options.repeats}" if index >= 0 else "warming up"
        bar.set_description(f"context {context:,}, {name}")
        before = contenders.session.position
        due = _is_due(index, options.repeats, options.stateless_repeats)
        _one_round(contenders, measured if index >= 0 else warm_up, due)
        bar.update(contenders.session.position - before)
    return block, measured


def check(equality: dict[str, Any]) -> dict[str, Any]:
    """``equality`` itself, if every difference is within its bound.

    Raises:
        WorkbenchError: one is not; the message has the numbers.
    """
    bound = equality["bound"]
    differences = equality["max_difference"] | {
        "the choice's probability": equality["choice_difference"]
    }
    for name, difference in differences.items():
        if not difference <= bound:
            msg = (
                f"at {equality['position']:,} tokens the session's log-probabilities differ by "
                f"{difference:.3g} from {name}, bound {bound:.3g}; nothing was measured, the "
                "answers must agree first"
            )
            raise WorkbenchError(msg)
    return equality


def _one_round(contenders: Contenders, measured: Measured, stateless: bool) -> None:
    contenders.bar_arrives(measured)
    contenders.ask_all(ONE, measured)
    contenders.bar_arrives(measured)
    contenders.ask_all(EIGHT, measured, stateless=stateless)
    contenders.bar_arrives(measured)
    contenders.ask_choice(measured)
    contenders.ask_flash(measured)


def _is_due(index: int, repeats: int, wanted: int) -> bool:
    """Whether this round is one of ``wanted`` rounds, in the middle of as many parts of all."""
    return index in {(2 * part + 1) * repeats // (2 * wanted) for part in range(wanted)}


def _tokens_of_a_bar(contenders: Contenders, seed: int) -> float:
    return 1024 / len(take(bars(seed), 1024, contenders.engine.tokens.data))


def _check(options: Options) -> None:
    ascending = all(a < b for a, b in zip(options.contexts, options.contexts[1:], strict=False))
    if not options.contexts or not ascending or options.contexts[0] < 128:
        msg = f"contexts {options.contexts}: expected ascending numbers of tokens from 128 on"
        raise WorkbenchError(msg)
    if not 1 <= options.stateless_repeats <= options.repeats:
        msg = (
            f"repeats {options.repeats}, of the stateless peer {options.stateless_repeats}: "
            "expected at least 1, and no more of the second"
        )
        raise WorkbenchError(msg)
    if options.threads < 1:
        msg = f"threads {options.threads}: expected at least 1"
        raise WorkbenchError(msg)
