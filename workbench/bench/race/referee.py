"""Runs the race: each peer alone on the machine, equality first, then what was planned for it."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from workbench.bench import machine
from workbench.bench.contenders import BOUNDS
from workbench.bench.model import load_plain, make_model
from workbench.bench.race.material import Material, make_material
from workbench.bench.race.plan import (
    CHOICE,
    JUDGE,
    Cell,
    Process,
    System,
    cells,
    chosen,
    main_answer,
)
from workbench.bench.race.process import PeerFailed, PeerProcess
from workbench.engine.floor import Floor
from workbench.errors import WorkbenchError
from workbench.waiting import aside

SCRIPTS = Path(__file__).parent / "peers"
LEAST_CONTEXT = 128
SPARE_BARS = 8  # room beyond what the largest trial adds
MOST_TOKENS_A_BAR = 64
FIRST_ROUND = 2  # budgets that measuring every kind once may take; what is left then is left out


@dataclass(frozen=True)
class Options:
    """What to race.

    Attributes:
        contexts: tokens before the bars and the question, ascending.
        between: bars that arrive before a question, ascending.
        answers: tokens of open answers, as texts, and "choice".
        repeats: measured questions of each kind, at most.
        size: of the model, a key of `SIZES`.
        dtype: of everyone but the judge.
        threads: of everyone.
        seed: of the model and of the stream.
        budget: seconds after which a system measures no more at one context; twice that if not
            every kind has been measured once.
        timeout: seconds after which a peer that does not answer is stopped.
        only: names of processes or engines; none takes all.
        python: by engine, the Python that has it.
    """

    contexts: tuple[int, ...] = (2_600, 5_000, 9_500, 19_000)
    between: tuple[int, ...] = (1, 10, 50)
    answers: tuple[str, ...] = ("1", "8", "64", CHOICE)
    repeats: int = 7
    size: str = "250m"
    dtype: str = "bfloat16"
    threads: int = 2
    seed: int = 0
    budget: float = 20.0
    timeout: float = 600.0
    only: tuple[str, ...] = ()
    python: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Course:
    """What all peers have in common during a race."""

    options: Options
    folder: Path
    material: Material
    judge: PeerProcess
    judged: dict[str, Any]
    bound: float


def run(
    options: Options, command: str, save: Callable[[dict[str, Any]], None], progress: bool = True
) -> None:
    """Race.

    Args:
        options: what to race.
        command: the command line that repeats it, noted in the result.
        save: called after each peer with everything so far, as plain values ready for JSON.
        progress: say on standard error what is being done.

    Raises:
        WorkbenchError: an option is wrong, or the judge cannot run.
    """
    check(options)
    began = time.time()
    processes = chosen(options.only)
    torch.set_num_threads(options.threads)
    where = machine.describe(options.threads)
    with tempfile.TemporaryDirectory(prefix="workbench-race-") as name:
        folder = Path(name)
        model = aside(lambda: make_model(folder / "model", options.size, options.seed))
        plain = aside(lambda: load_plain(folder / "model", getattr(torch, options.dtype)))
        floor = Floor.of(plain)
        del plain
        material = make_material(folder / "model", options.contexts, options.seed)
        material.write(folder / "material.json")
        with tqdm(total=len(processes) + 1, disable=not progress, unit=" peers") as bar:
            course = _start_judge(options, folder, material, bar.set_description)
            bar.update()
            result = {
                "benchmark": "race",
                "command": command,
                "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                "versions": machine.versions(),
                "machine": where,
                "model": model | {"dtype": options.dtype},
                "settings": {
                    "contexts": list(options.contexts),
                    "positions": list(material.lengths.values()),
                    "between": list(options.between),
                    "answers": list(options.answers),
                    "repeats": options.repeats,
                    "budget_s": options.budget,
                    "question_tokens": len(material.question),
                    "seed": options.seed,
                },
                "floor": {
                    "weight_bytes": floor.weight_bytes,
                    "kv_bytes_per_token": floor.kv_bytes_per_token,
                },
                "judge": course.judged,
            }
            peers: list[dict[str, Any]] = []
            try:
                for process in processes:
                    peers.append(_race(course, process, bar.set_description))
                    bar.update()
                    save(result | {"duration_s": round(time.time() - began, 1), "peers": peers})
            finally:
                course.judge.close()


def check(options: Options) -> None:
    """Raise `WorkbenchError` if the options make no race."""
    for name, values, least in (
        ("contexts", options.contexts, LEAST_CONTEXT),
        ("between", options.between, 1),
    ):
        ascending = all(a < b for a, b in itertools.pairwise(values))
        if not values or not ascending or values[0] < least:
            msg = f"{name} {values}: expected ascending whole numbers from {least} on"
            raise WorkbenchError(msg)
    numbers = [answer for answer in options.answers if answer != CHOICE]
    if not numbers or not all(answer.isdigit() and int(answer) >= 1 for answer in numbers):
        msg = (
            f"answers {options.answers}: expected at least one number of tokens, and numbers or "
            f"{CHOICE!r} beside it"
        )
        raise WorkbenchError(msg)
    if options.repeats < 1 or options.threads < 1 or options.budget <= 0 or options.timeout <= 0:
        msg = (
            f"repeats {options.repeats}, threads {options.threads}, budget {options.budget}, "
            f"timeout {options.timeout}: expected positive numbers"
        )
        raise WorkbenchError(msg)


def _start_judge(
    options: Options, folder: Path, material: Material, say: Callable[[str], None]
) -> Course:
    """Let plain transformers in float32 read everything; it then scores everyone's answers."""
    say("judge")
    try:
        judge = _start(JUDGE, options, folder)
        opened = judge.ask("open", options.timeout, settings=_settings(JUDGE, options, folder))
        filled = judge.ask("fill", options.timeout, length=len(material.context))
    except PeerFailed as error:
        msg = f"the judge, plain transformers, failed: {error}; nothing was measured"
        raise WorkbenchError(msg) from error
    bound = BOUNDS[getattr(torch, options.dtype)]
    what = {
        "is": JUDGE.systems[0].what, "versions": opened["versions"], "bound": bound,
        "reading_s": filled["seconds"],
    }  # fmt: skip
    return Course(options, folder, material, judge, what, bound)


def _race(course: Course, process: Process, say: Callable[[str], None]) -> dict[str, Any]:
    """One process from start to end; a failure ends it, and what was measured before counts."""
    options, material = course.options, course.material
    result: dict[str, Any] = {
        "peer": process.name,
        "engine": process.engine,
        "systems": {s.name: {"reads": s.reads, "what": s.what} for s in process.systems},
        "failed": None,
        "bandwidth": {"before": _bandwidth(options)},
        "reading": [],
        "equality": [],
        "samples": [],
    }
    began = time.perf_counter()
    peer = None
    refused: set[str] = set()
    try:
        say(f"{process.name}: starting")
        peer = _start(process, options, course.folder)
        settings = _settings(process, options, course.folder)
        result |= {"opened": peer.ask("open", options.timeout, settings=settings)}
        for context, length in material.lengths.items():
            say(f"{process.name}: reading {context:,} tokens")
            filled = peer.ask("fill", options.timeout, length=length)
            result["reading"].append({"context": context, "seconds": filled["seconds"]})
            bars = material.fresh()
            for system in process.systems:
                if system.name in refused:
                    continue
                say(f"{process.name}: {system.mode}, {context:,} tokens")
                equality, samples = _measure(course, peer, system, context, bars)
                result["equality"].append(equality)
                result["samples"] += samples
                if not equality["agrees"]:
                    refused.add(system.name)
    except PeerFailed as error:
        result["failed"] = str(error)
        if error.missing and error.missing not in sys.stdlib_module_names:
            result["failed"] += (
                f"; install it into an environment of its own and say --python "
                f"{process.engine}=PATH"
            )
    finally:
        if peer is not None:
            peer.close()
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["bandwidth"]["after"] = _bandwidth(options)
    return result


def _measure(
    course: Course, peer: PeerProcess, system: System, context: int, bars: Iterator[list[int]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One system at one context: the comparison, then rounds of all its cells."""
    options = course.options
    planned = cells(system, options.between, options.answers, options.repeats)
    began = time.perf_counter()
    equality, scored = _compare(course, peer, system, context, bars)
    samples: list[dict[str, Any]] = []
    if not equality["agrees"]:
        return equality, samples
    done = 0
    if system.kinds == "main":
        # It computes everything each time, so the comparison took as long as any other answer.
        samples.append(_sample(system, context, planned[0], scored))
        done = 1
    else:
        began = time.perf_counter()
    for index in range(done, options.repeats):
        limit = options.budget * (1 if index else FIRST_ROUND)
        for cell in planned:
            if index >= cell.rounds:
                continue
            if time.perf_counter() - began > limit:
                return equality, samples
            answer = _trial(course, peer, system, context, cell, bars)
            samples.append(_sample(system, context, cell, answer))
    return equality, samples


def _sample(system: System, context: int, cell: Cell, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "system": system.name,
        "context": context,
        "position": answer["position"],
        "between": cell.between,
        "answer": cell.answer,
        "ttft_ms": answer["ttft_ms"],
        "total_ms": answer["total_ms"],
        "arrivals_ms": sum(answer["arrivals_ms"]) + answer["settled_ms"],
    }


def _trial(
    course: Course,
    peer: PeerProcess,
    system: System,
    context: int,
    cell: Cell,
    bars: Iterator[list[int]],
    *,
    scored: bool = False,
) -> dict[str, Any]:
    """Bars arrive and a question is asked; ``position`` is what was read before the question."""
    length = course.material.lengths[context]
    arriving = [next(bars) for _ in range(cell.between)]
    answer = peer.ask(
        "trial", course.options.timeout, mode=system.mode, length=length, bars=arriving,
        question=course.material.question, tokens=cell.tokens,
        choices=course.material.choices if cell.answer == CHOICE else None, scored=scored,
    )  # fmt: skip
    read = sum(map(len, arriving))
    return answer | {"position": length + read, "bars": arriving}


def _compare(
    course: Course, peer: PeerProcess, system: System, context: int, bars: Iterator[list[int]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have the judge score a system's answer: log-probabilities, and greedy choices and margins."""
    options, material = course.options, course.material
    answer = CHOICE if system.kinds == "flash" else main_answer(options.answers)
    cell = Cell(options.between[0], answer, 1)
    found = _trial(course, peer, system, context, cell, bars, scored=True)
    length, asked = material.lengths[context], material.question
    read = [token for bar in found["bars"] for token in bar]
    stale = [token for bar in found["bars"][:-1] for token in bar]

    def score(ids: list[int], tokens: list[int]) -> dict[str, Any]:
        return course.judge.ask(
            "score", options.timeout, length=length, ids=[*ids, *asked], answer=tokens
        )

    try:
        if answer == CHOICE:
            return _compare_choice(course, system, context, found, score, read), found
        truth, without = score(read, found["ids"]), score(stale, found["ids"])
    except PeerFailed as error:
        msg = f"the judge, plain transformers, failed: {error}"
        raise WorkbenchError(msg) from error
    difference = None
    if found["logprobs"] is not None:
        difference = _largest(found["logprobs"], truth["logprobs"])
    disagreements = [
        {
            "step": step,
            "token": token,
            "judge_token": truth["best"][step],
            "margin": truth["best_logprobs"][step] - truth["logprobs"][step],
        }
        for step, token in enumerate(found["ids"])
        if token != truth["best"][step]
    ]
    # A token that is behind the judge's own by less than twice the bound may still be greedy.
    agrees = (difference is None or difference <= course.bound) and all(
        item["margin"] <= 2 * course.bound for item in disagreements
    )
    return {
        "system": system.name, "context": context, "tokens": len(found["ids"]),
        "distinct_tokens": len(set(found["ids"])), "max_difference": difference,
        "difference_if_the_last_bar_were_missing": _largest(
            truth["logprobs"], without["logprobs"]
        ),
        "disagreements": disagreements, "bound": course.bound, "agrees": agrees,
    }, found  # fmt: skip


def _compare_choice(
    course: Course,
    system: System,
    context: int,
    found: Mapping[str, Any],
    score: Callable[[list[int], list[int]], dict[str, Any]],
    read: list[int],
) -> dict[str, Any]:
    """Compare the log-odds of two closed answers."""
    first, second = (score(read, [token])["logprobs"][0] for token in course.material.choices)
    ours = torch.tensor(found["chances"], dtype=torch.float64).log()
    difference = abs(float(ours[0] - ours[1]) - (first - second))
    return {
        "system": system.name, "context": context, "tokens": 1, "distinct_tokens": 1,
        "max_difference": difference, "difference_if_the_last_bar_were_missing": None,
        "disagreements": [], "bound": course.bound, "agrees": difference <= course.bound,
    }  # fmt: skip


def _largest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _start(process: Process, options: Options, folder: Path) -> PeerProcess:
    threads = str(options.threads)
    env = dict(os.environ) | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    place = folder / process.name
    place.mkdir(exist_ok=True)
    python = options.python.get(process.engine, sys.executable)
    return PeerProcess(python, SCRIPTS / process.script, env | process.env, place / "log.txt")


def _settings(process: Process, options: Options, folder: Path) -> dict[str, Any]:
    """What a peer's script is told."""
    longest = max((int(answer) for answer in options.answers if answer != CHOICE), default=1)
    room = (options.between[-1] + SPARE_BARS) * MOST_TOKENS_A_BAR + longest
    return {
        "model": str(folder / "model"),
        "material": str(folder / "material.json"),
        "folder": str(folder / process.name),
        "threads": options.threads,
        "dtype": options.dtype,
        "cells": options.contexts[-1] + room,
        "modes": process.modes,
        **process.settings,
    }


def _bandwidth(options: Options) -> float:
    """The reference that everyone is measured between: bytes per second of a large sum."""
    share = 1 if options.size != "tiny" else 64
    return aside(lambda: machine.read_bandwidth(num_bytes=machine.BUFFER_BYTES // share))
