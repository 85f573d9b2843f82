"""Runs the race: each peer alone on the machine, equality first, then what was planned for it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from workbench.bench import machine
from workbench.bench.model import load_plain, make_model
from workbench.bench.race import mix, single, standing
from workbench.bench.race.course import Course, failure, start_judge
from workbench.bench.race.equality import agreed
from workbench.bench.race.material import Material, make_material
from workbench.bench.race.options import MIX, SINGLE, STANDING, Options, check
from workbench.bench.race.plan import Process, chosen
from workbench.bench.race.process import PeerFailed
from workbench.engine.floor import Floor
from workbench.waiting import aside

LEAST_QUESTIONS = 16  # different ones, for the mix


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
        with tqdm(total=len(processes) + 1, disable=not progress, unit=" peers") as bar:
            course = start_judge(options, folder, material, bar.set_description)
            bar.update()
            result = {
                "benchmark": "race",
                "command": command,
                "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                "versions": machine.versions(),
                "machine": where,
                "model": model | {"dtype": options.dtype},
                "settings": _settings(options, material),
                "floor": {
                    "weight_bytes": floor.weight_bytes,
                    "kv_bytes_per_token": floor.kv_bytes_per_token,
                },
                "judge": course.judged,
            }
            peers: list[dict[str, Any]] = []
            try:
                for process in processes:
                    peers.append(_race(course, process))
                    bar.update()
                    save(result | {"duration_s": round(time.time() - began, 1), "peers": peers})
            finally:
                course.judge.peer.close()


def _settings(options: Options, material: Material) -> dict[str, Any]:
    """Of the options, what the result states; where things are on this machine is no part of it."""
    return {
        "parts": list(options.parts),
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


def _race(course: Course, process: Process) -> dict[str, Any]:
    """All parts of one peer; a failure ends a part, and what was measured before counts."""
    parts = course.options.parts
    result: dict[str, Any] = {
        "peer": process.name,
        "engine": process.engine,
        "systems": {s.name: {"reads": s.reads, "what": s.what} for s in process.systems},
        "failed": None,
        "bandwidth": {"before": course.bandwidth()},
        "reading": [],
        "equality": [],
        "samples": [],
    }
    began = time.perf_counter()
    watched = STANDING in parts and any(system.standing for system in process.systems)
    if watched:
        names = {system.name: system.standing for system in process.systems if system.standing}
        result["standing"] = {"systems": names, "equality": [], "samples": []}
    if SINGLE in parts or watched:
        _on_contexts(course, process, result)
    if MIX in parts and any(system.mix for system in process.systems):
        if "opened" not in result and result["failed"] is not None:
            result["mix"] = None  # it would fail again, for the reason that is given
        else:
            result["mix"] = mix.race(course, process)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["bandwidth"]["after"] = course.bandwidth()
    return result


def _on_contexts(course: Course, process: Process, result: dict[str, Any]) -> None:
    """Single and standing questions at each context, into ``result``."""
    options, material = course.options, course.material
    peer = None
    refused: set[str] = set()
    unwatched: set[str] = set()
    try:
        course.say(f"{process.name}: starting")
        peer = course.start(process)
        result["opened"] = course.open(process, peer)
        for context, length in material.lengths.items():
            course.say(f"{process.name}: reading {context:,} tokens")
            filled = peer.ask("fill", options.timeout, length=length)
            result["reading"].append({"context": context, "seconds": filled["seconds"]})
            bars, later = material.fresh(), material.fresh(1)
            for system in process.systems:
                if SINGLE in options.parts and system.name not in refused:
                    course.say(f"{process.name}: {system.mode}, {context:,} tokens")
                    equality, samples = single.measure(course, peer, system, context, bars)
                    result["equality"].append(equality)
                    result["samples"] += samples
                    if not equality["agrees"]:
                        refused.add(system.name)
                        unwatched.add(system.name)
                if STANDING in options.parts and system.standing and system.name not in unwatched:
                    course.say(f"{process.name}: {system.mode}, {context:,} tokens, standing")
                    checks, rounds = standing.measure(course, peer, system, context, later)
                    result["standing"]["equality"] += checks
                    result["standing"]["samples"] += rounds
                    if not agreed(checks):
                        unwatched.add(system.name)
    except PeerFailed as error:
        result["failed"] = failure(process, error)
    finally:
        if peer is not None:
            peer.close()
