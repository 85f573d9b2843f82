"""``python -m workbench.bench race``: its options, and what it runs for them."""

from __future__ import annotations

import argparse
import copy
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError

RESULTS = Path("data/bench")
DESCRIPTION = (
    "Our sessions against the engines people use, each in its own process and with its own Python, "
    "all on the same weights and token ids. Every measured question starts from the same context: "
    "bars arrive, then 16 tokens are asked. Who computes bars when they arrive pays then, who "
    "computes them when asked pays then; both are shown. Then K standing questions are all to be "
    "answered after every bar; and in the mix, bars of many sessions and questions to any of them "
    "become due in real time, and latencies count from then. Before anything is timed, plain "
    "transformers in float32 scores everyone's answer. A peer that cannot run is listed with the "
    "reason. The model has random weights and is made on the spot; nothing is downloaded."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    from workbench.bench.model import SIZES
    from workbench.bench.race.options import PARTS, Options
    from workbench.bench.race.plan import CPU, CUDA

    usual = Options()
    shown = "(default: %(default)s)"
    parser.add_argument(
        "--parts", choices=PARTS, nargs="+", default=usual.parts, metavar="PART",
        help=f"some of {_words(PARTS)}: one question at a time, K standing questions, and many "
        "sessions in real time (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=usual.contexts, metavar="TOKENS",
        help=f"tokens before the bars, ascending (default: {_words(usual.contexts)})",
    )  # fmt: skip
    parser.add_argument(
        "--between", type=int, nargs="+", default=usual.between, metavar="BARS",
        help="how many bars arrive before a question, ascending; beyond the first number only "
        f"answers of about 8 tokens are measured (default: {_words(usual.between)})",
    )  # fmt: skip
    parser.add_argument(
        "--answers", nargs="+", default=usual.answers, metavar="N",
        help=f"tokens of open answers, and choice (default: {_words(usual.answers)})",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=int, default=usual.repeats, metavar="N",
        help=f"measured questions of each kind, a third of it for those that take long {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--standing", type=int, nargs="+", default=usual.standing, metavar="K",
        help="how many questions stand over a context and are answered after every bar, "
        f"ascending; open ones of about 8 tokens, and choice if --answers has it (default: "
        f"{_words(usual.standing)})",
    )  # fmt: skip
    parser.add_argument(
        "--mix", type=int, nargs="+", default=usual.mix, metavar="SESSIONS",
        help=f"numbers of sessions in the mix, ascending (default: {_words(usual.mix)})",
    )  # fmt: skip
    parser.add_argument(
        "--mix-seconds", type=float, default=usual.mix_seconds, metavar="S",
        help=f"how long bars and questions become due in each mix {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--mix-bars", type=float, default=usual.mix_bars, metavar="S",
        help="mean seconds between two bars of one session, each session's a Poisson process "
        f"of its own {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--mix-asks", type=float, default=usual.mix_asks, metavar="S",
        help="seconds between two questions, on average; each goes to any of the sessions and "
        f"wants an open answer of about 8 tokens {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--mix-context", type=int, default=usual.mix_context, metavar="TOKENS",
        help=f"what each session of the mix holds at first {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--mix-grace", type=float, default=usual.mix_grace, metavar="S",
        help="seconds to wait, once nothing more becomes due, for what is unfinished; the rest "
        f"counts with its age until then {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, default=usual.budget, metavar="S",
        help="seconds that a system has for single questions at one context, in equal shares for "
        f"their kinds, once each kind was measured; as many for standing ones {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=usual.timeout, metavar="S",
        help=f"seconds after which a peer that does not answer is stopped {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=sorted(SIZES), default=usual.size,
        help="the model's size; tiny is for trying the command: its times mean nothing, and vLLM "
        f"has no attention for its heads of 16 {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], default=usual.dtype,
        help=f"of everyone who has the choice; the judge has float32 {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=[CPU, CUDA], default=usual.device,
        help=f"of everyone; engines that do not compute there stay away {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--together", action=argparse.BooleanOptionalAction, default=None,
        help="all engines hold the model at once and take turns, question by question, so that a "
        "machine that changes its speed does so for all; --no-together gives each the machine's "
        "memory to itself, one after the other (default: together on a CPU, not on a GPU)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=usual.threads, metavar="N", help=f"of everyone {shown}"
    )
    parser.add_argument(
        "--seed", type=int, default=usual.seed, metavar="N",
        help=f"of the weights, the streams and the mix {shown}",
    )  # fmt: skip
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE=PATH",
        help="the Python that has an engine, such as vllm=PATH; several times for several",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="PEER", help="race these engines or peers alone"
    )
    parser.add_argument(
        "--smoke", action="store_true",
        help="a tiny model, two short contexts, a mix of a second, sessions and transformers "
        "alone: does it run?",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help=f"where to write the JSON (default: {RESULTS}/race-<processor>.json, nowhere for "
        "--smoke); the samples go beside it as parquet, those of standing questions and of the "
        "mix into files of their own",
    )  # fmt: skip
    parser.add_argument(
        "--into", type=Path, metavar="FILE",
        help="put what is raced into this file, in place of what it has of the same peers: both "
        "of single and standing, or the mix, or all; with the settings it was raced with",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Race, print the table, write the files."""
    from workbench.bench import machine
    from workbench.bench.race import again, files, referee, report, tables
    from workbench.bench.race.options import Options
    from workbench.bench.race.plan import CPU
    from workbench.bench.race.smoke import smoke

    wanted = Options(
        parts=tuple(options.parts), contexts=tuple(options.contexts),
        between=tuple(options.between),
        answers=tuple(options.answers), repeats=options.repeats, size=options.size,
        dtype=options.dtype, threads=options.threads, seed=options.seed, budget=options.budget,
        timeout=options.timeout, standing=tuple(options.standing), mix=tuple(options.mix),
        mix_seconds=options.mix_seconds, mix_bars=options.mix_bars, mix_asks=options.mix_asks,
        mix_context=options.mix_context, mix_grace=options.mix_grace,
        only=tuple(options.only), device=options.device,
        together=options.device == CPU if options.together is None else options.together,
        python=pythons(options.python),
    )  # fmt: skip
    if options.smoke:
        wanted = smoke(wanted)
    out, before = options.out or options.into, None
    if options.into is not None:
        if options.out is not None:
            msg = "expected --out or --into, got both"
            raise WorkbenchError(msg)
        again.check(options.parts)
        before = files.read(options.into)
    if out is None and not options.smoke:
        name = machine.short_name(machine.processor_name(options.device))
        out = RESULTS / f"race-{name}.json"
    saved: list[dict[str, Any]] = []
    written: list[Path] = []

    def begin(header: dict[str, Any]) -> None:
        if before is not None:
            again.check_alike(before, header)

    def save(result: dict[str, Any], whole: bool) -> None:
        if before is not None and not whole:
            return  # half a turn does not take the place of a whole one
        kept = copy.deepcopy(result)  # it goes on
        saved[:] = [report.summarize(kept if before is None else again.put_into(before, kept))]
        if out is not None:
            written[:] = files.write(saved[0], out)

    try:
        referee.run(wanted, without_paths(command), begin, save)
    except KeyboardInterrupt:
        if not saved:
            raise
        print("stopped; this is as far as it got", file=sys.stderr)
    print(tables.table(saved[0]))
    if written:
        print(f"\nwritten to {', '.join(map(str, written))}")
    return 0


def pythons(given: list[str]) -> dict[str, str]:
    """``vllm=PATH`` -> ``{"vllm": PATH}``.

    Raises:
        WorkbenchError: it reads otherwise, or no peer is of that engine.
    """
    from workbench.bench.race.plan import PROCESSES

    engines = sorted({process.engine for process in PROCESSES})
    found = {}
    for text in given:
        engine, _, path = text.partition("=")
        if engine not in engines or not path:
            msg = f"--python {text}: expected ENGINE=PATH, with one of {', '.join(engines)}"
            raise WorkbenchError(msg)
        found[engine] = str(Path(path).absolute())  # a peer runs in another folder
    return found


def without_paths(command: str) -> str:
    """The command as a file may state it: where something is on this machine is left out."""
    named = (
        re.sub(r"^([\w-]+)=.*[/\\].*", r"\1=PATH", word) for word in shlex.split(command)
    )
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in named)


def _words(values: tuple[object, ...]) -> str:
    return " ".join(map(str, values))
