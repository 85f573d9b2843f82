"""What to race, checked before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from workbench.bench.race.plan import CHOICE, CPU, CUDA
from workbench.errors import WorkbenchError

LEAST_CONTEXT = 128
SINGLE, STANDING, MIX = "single", "standing", "mix"
PARTS = (SINGLE, STANDING, MIX)


@dataclass(frozen=True)
class Options:
    """What to race.

    Attributes:
        parts: which of `PARTS`: single questions, standing questions, the mix of many sessions.
        contexts: tokens before the bars and the question, ascending.
        between: bars that arrive before a question, ascending.
        answers: tokens of open answers, as texts, and "choice".
        repeats: measured questions of each kind, at most.
        standing: how many standing questions there are over one context, ascending.
        mix: numbers of sessions, ascending.
        mix_seconds: how long things become due in the mix.
        mix_bars: mean seconds between two bars of one session.
        mix_asks: seconds between two questions to all sessions together, on average.
        mix_context: tokens that each session holds at first.
        mix_grace: seconds after ``mix_seconds`` until nobody waits any longer.
        size: of the model, a key of `SIZES`.
        dtype: of everyone but the judge.
        device: of everyone, "cpu" or "cuda".
        together: all engines hold the model at once and take turns, question by question; else
            each has the machine to itself, one after the other.
        threads: of everyone.
        seed: of the model, the streams and the mix.
        budget: seconds that a system has at one context, in equal shares for its kinds of
            questions; twice that to measure each kind once. Single and standing questions have
            one each.
        timeout: seconds after which a peer that does not answer is stopped.
        only: names of processes or engines; none takes all.
        python: by engine, the Python that has it.
    """

    parts: tuple[str, ...] = PARTS
    contexts: tuple[int, ...] = (2_600, 5_000, 9_500, 19_000)
    between: tuple[int, ...] = (1, 10, 50)
    answers: tuple[str, ...] = ("1", "8", "64", CHOICE)
    repeats: int = 7
    standing: tuple[int, ...] = (1, 4, 16)
    mix: tuple[int, ...] = (8, 32, 64)
    mix_seconds: float = 20.0
    mix_bars: float = 2.0
    mix_asks: float = 0.8
    mix_context: int = 256
    mix_grace: float = 20.0
    size: str = "250m"
    dtype: str = "bfloat16"
    device: str = CPU
    together: bool = True
    threads: int = 2
    seed: int = 0
    budget: float = 20.0
    timeout: float = 600.0
    only: tuple[str, ...] = ()
    python: Mapping[str, str] = field(default_factory=dict)


def check(options: Options) -> None:
    """Raise `WorkbenchError` if the options make no race."""
    for name, values, least in (
        ("contexts", options.contexts, LEAST_CONTEXT),
        ("between", options.between, 1),
        ("standing", options.standing, 1),
        ("mix", options.mix, 1),
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
    positive = {
        name: getattr(options, name)
        for name in (
            "repeats", "threads", "budget", "timeout", "mix_seconds", "mix_bars", "mix_asks",
            "mix_context",
        )
    }  # fmt: skip
    wrong = [f"{name} {value}" for name, value in positive.items() if value <= 0]
    if options.mix_grace < 0:
        wrong.append(f"mix_grace {options.mix_grace}")
    if wrong:
        msg = f"{', '.join(wrong)}: expected positive numbers"
        raise WorkbenchError(msg)
    if options.device not in (CPU, CUDA):
        msg = f"device {options.device!r}: expected {CPU!r} or {CUDA!r}"
        raise WorkbenchError(msg)
    if options.device == CUDA and not torch.cuda.is_available():
        msg = f"device {CUDA!r}: torch finds no CUDA device; expected an NVIDIA GPU, or {CPU!r}"
        raise WorkbenchError(msg)
    if not options.parts or not set(options.parts) <= set(PARTS):
        msg = f"parts {options.parts}: expected some of {', '.join(PARTS)}"
        raise WorkbenchError(msg)
