"""What all peers of a race have in common, and how one of them is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.bench import machine
from workbench.bench.contenders import BOUNDS, QUESTION_TOKENS
from workbench.bench.large_pages import with_large_pages
from workbench.bench.race.equality import Judge
from workbench.bench.race.material import Material
from workbench.bench.race.options import MIX, STANDING, Options
from workbench.bench.race.plan import CHOICE, JUDGE, Process, main_answer
from workbench.bench.race.process import PeerFailed, PeerProcess
from workbench.errors import WorkbenchError
from workbench.waiting import aside

SCRIPTS = Path(__file__).parent / "peers"
SPARE_BARS = 8  # room beyond what the largest trial adds
MOST_TOKENS_A_BAR = 64
LEAST_SEQUENCES = 4  # that an engine may have at once

Say = Callable[[str], None]


@dataclass
class Course:
    """What all peers have in common during a race."""

    options: Options
    folder: Path
    material: Material
    judge: Judge
    judged: dict[str, Any]
    say: Say

    def start(self, process: Process) -> PeerProcess:
        """A peer's process.

        Raises:
            PeerFailed: its Python is not there.
        """
        return start(process, self.options, self.folder)

    def open(self, process: Process, peer: PeerProcess, **more: int) -> dict[str, Any]:
        """Have it load the model; ``more`` replaces sizes. Returns what it says of itself."""
        settings = settings_of(process, self.options, self.folder) | more
        return peer.ask("open", self.options.timeout, settings=settings)

    def bandwidth(self) -> float:
        """The reference that everyone is measured between: bytes per second of a large sum."""
        share = 1 if self.options.size != "tiny" else 64
        size = machine.BUFFER_BYTES // share
        return aside(lambda: machine.read_bandwidth(num_bytes=size, device=self.options.device))


def failure(process: Process, error: PeerFailed) -> str:
    """Why a peer did not finish, and what to do if it is not installed."""
    reason = str(error)
    if error.missing and error.missing not in sys.stdlib_module_names:
        reason += (
            f"; install it into an environment of its own and say --python {process.engine}=PATH"
        )
    return reason


def start_judge(options: Options, folder: Path, material: Material, say: Say) -> Course:
    """Let plain transformers in float32 read everything; it then scores everyone's answers.

    Raises:
        WorkbenchError: it cannot.
    """
    say("judge")
    judge: PeerProcess | None = None
    try:
        judge = start(JUDGE, options, folder)
        opened = judge.ask("open", options.timeout, settings=settings_of(JUDGE, options, folder))
        length = 0 if options.parts == (MIX,) else len(material.context)  # the mix has its own
        filled = judge.ask("fill", options.timeout, length=length)
    except BaseException as error:
        if judge is not None:
            judge.kill()  # it would go on reading, beside whatever is measured next
        if not isinstance(error, PeerFailed):
            raise
        msg = f"the judge, plain transformers, failed: {error}; nothing was measured"
        raise WorkbenchError(msg) from error
    bound = BOUNDS[getattr(torch, options.dtype)]
    what = {
        "is": JUDGE.systems[0].what, "versions": opened["versions"], "bound": bound,
        "reading_s": filled["seconds"],
    }  # fmt: skip
    return Course(options, folder, material, Judge(judge, bound, options.timeout), what, say)


def start(process: Process, options: Options, folder: Path) -> PeerProcess:
    """A process with as many threads as everyone has."""
    threads = str(options.threads)
    env = with_large_pages(os.environ) | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    if "PYTHONPATH" in env:  # a peer runs in another folder
        paths = env["PYTHONPATH"].split(os.pathsep)
        env["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths if path)
    place = folder / process.name
    place.mkdir(exist_ok=True)
    python = options.python.get(process.engine, sys.executable)
    return PeerProcess(python, SCRIPTS / process.script, env | process.env, place / "log.txt")


def settings_of(process: Process, options: Options, folder: Path) -> dict[str, Any]:
    """What a peer's script is told.

    ``longest`` is the tokens of its longest sequence, ``cells`` those of all sequences together,
    ``sequences`` how many of them there are at once.
    """
    longest = max((int(answer) for answer in options.answers if answer != CHOICE), default=1)
    bars, standing = options.between[-1], 1
    if STANDING in options.parts:
        bars, standing = max(bars, options.repeats + 1), options.standing[-1]
    room = (bars + SPARE_BARS) * MOST_TOKENS_A_BAR + longest
    asked = standing * (QUESTION_TOKENS + int(main_answer(options.answers)))
    return {
        "model": str(folder / "model"),
        "material": str(folder / "material.json"),
        "folder": str(folder / process.name),
        "threads": options.threads,
        "device": options.device,
        "dtype": options.dtype,
        "longest": options.contexts[-1] + room,
        "cells": options.contexts[-1] + room + asked,
        "sequences": max(LEAST_SEQUENCES, standing),
        "modes": process.modes,
        **process.settings,
    }
