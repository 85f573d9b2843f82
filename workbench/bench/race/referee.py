"""Runs the race: one engine computes at a time; equality first, then what was planned.

Engines are on the machine together and take turns, question by question, so that what the machine
does meanwhile happens to all of them alike; or one after the other, where they do not fit.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from workbench.bench import machine
from workbench.bench.model import load_plain, make_model
from workbench.bench.race import contexts, mix
from workbench.bench.race.course import Course, start_judge
from workbench.bench.race.entry import Entry
from workbench.bench.race.material import Material, make_material
from workbench.bench.race.options import MIX, SINGLE, STANDING, Options, check
from workbench.bench.race.plan import Process, chosen
from workbench.engine.floor import Floor
from workbench.waiting import aside

LEAST_QUESTIONS = 16  # different ones, for the mix


def run(
    options: Options,
    command: str,
    begin: Callable[[dict[str, Any]], None],
    save: Callable[[dict[str, Any], bool], None],
    progress: bool = True,
) -> None:
    """Race.

    Args:
        options: what to race.
        command: the command line that repeats it, noted in the result.
        begin: called with what the result states of model, settings and machine, before anything
            is measured; what it raises ends the race.
        save: called after each context and number of sessions with everything so far, as plain
            values ready for JSON, and whether all that is on the machine together is through.
        progress: say on standard error what is being done.

    Raises:
        WorkbenchError: an option is wrong, or the judge cannot run.
    """
    check(options)
    began = time.time()
    processes = chosen(options.only, options.device)
    torch.set_num_threads(options.threads)
    where = machine.describe(options.threads, options.device)
    with tempfile.TemporaryDirectory(prefix="workbench-race-") as name:
        folder = Path(name)
        model = aside(
            lambda: make_model(folder / "model", options.size, options.seed, options.device)
        )
        plain = aside(lambda: load_plain(folder / "model", getattr(torch, options.dtype)))
        floor = Floor.of(plain)
        del plain
        several = max(LEAST_QUESTIONS, options.standing[-1])
        material = make_material(folder / "model", options.contexts, options.seed, several)
        material.write(folder / "material.json")
        groups = [processes] if options.together else [(process,) for process in processes]
        stages = 1 + len(groups) * _stages(options)
        result = {
            "benchmark": "race",
            "command": command,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "versions": machine.versions(),
            "source": machine.source(),
            "machine": where,
            "model": model | {"dtype": options.dtype},
            "settings": _settings(options, material),
            "floor": {
                "weight_bytes": floor.weight_bytes,
                "kv_bytes_per_token": floor.kv_bytes_per_token,
            },
        }
        begin(result)
        with tqdm(total=stages, disable=not progress, unit=" stages") as bar:
            course = start_judge(options, folder, material, bar.set_description)
            bar.update()
            peers: list[dict[str, Any]] = []

            def keep(*, whole: bool) -> None:
                said = {"judge": course.judged, "duration_s": round(time.time() - began, 1)}
                save(result | said | {"peers": peers}, whole)

            def after() -> None:
                bar.update()
                keep(whole=False)

            try:
                for group in groups:
                    _race(course, group, peers, after)
                    keep(whole=True)
            finally:
                course.judge.peer.close()


def _stages(options: Options) -> int:
    """Contexts and numbers of sessions."""
    on_contexts = len(options.contexts) if {SINGLE, STANDING} & set(options.parts) else 0
    return on_contexts + (len(options.mix) if MIX in options.parts else 0)


def _settings(options: Options, material: Material) -> dict[str, Any]:
    """Of the options, what the result states; where things are on this machine is no part of it."""
    return {
        "parts": list(options.parts),
        "together": options.together,
        "contexts": list(options.contexts),
        "positions": list(material.lengths.values()),
        "between": list(options.between),
        "answers": list(options.answers),
        "repeats": options.repeats,
        "budget_s": options.budget,
        "question_tokens": len(material.question),
        "standing": list(options.standing),
        "mix": {
            "sessions": list(options.mix),
            "seconds": options.mix_seconds,
            "bar_every_s": options.mix_bars,
            "question_every_s": options.mix_asks,
            "context": options.mix_context,
            "grace_s": options.mix_grace,
        },
        "seed": options.seed,
    }


def _race(
    course: Course,
    together: Sequence[Process],
    peers: list[dict[str, Any]],
    after: Callable[[], None],
) -> None:
    """All parts, for engines that are on the machine together; their results join ``peers``."""
    parts = course.options.parts
    own = [_result_of(process, parts) for process in together]
    peers += own
    entries = [Entry(course, process, each) for process, each in zip(together, own, strict=True)]

    def stage(look: Callable[[], None]) -> None:
        look()
        after()

    look = _watch(course, own)
    if SINGLE in parts or STANDING in parts:
        contexts.race(course, entries, functools.partial(stage, look))
    if MIX in parts:
        mixed = [
            Entry(course, entry.process, result)
            for entry in entries
            if (result := _in_mix(entry)) is not None
        ]
        mix.race(course, mixed, functools.partial(stage, _watch(course, [m.result for m in mixed])))


def _result_of(process: Process, parts: Sequence[str]) -> dict[str, Any]:
    """What a peer begins with."""
    result: dict[str, Any] = {
        "peer": process.name,
        "engine": process.engine,
        "systems": {s.name: {"reads": s.reads, "what": s.what} for s in process.systems},
        "failed": None,
        "reading": [],
        "equality": [],
        "samples": [],
    }
    names = {system.name: system.standing for system in process.systems if system.standing}
    if STANDING in parts and names:
        result["standing"] = {"systems": names, "equality": [], "samples": []}
    return result


def _in_mix(entry: Entry) -> dict[str, Any] | None:
    """What a peer begins the mix with, if it takes part; one that never opened would not again."""
    if entry.result["failed"] is not None and "opened" not in entry.result:
        return None
    if (result := mix.result_of(entry.process)) is not None:
        entry.result["mix"] = result
    return result


def _watch(course: Course, results: Sequence[dict[str, Any]]) -> Callable[[], None]:
    """Note the machine's bandwidth now, and whenever the function is called that this returns."""
    seen = [course.bandwidth()]
    for each in results:
        each["bandwidth"] = {"before": seen[0], "after": seen[0], "seen": seen}

    def look() -> None:
        seen.append(course.bandwidth())
        for each in results:
            each["bandwidth"]["after"] = seen[-1]

    return look
