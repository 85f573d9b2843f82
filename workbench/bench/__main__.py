"""``python -m workbench.bench``: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from workbench.bench.large_pages import start_again
from workbench.bench.sessions import command as sessions
from workbench.errors import WorkbenchError

OTHERS = {
    "flash": "cost of 1, 4 and 16 standing questions on one long session",
    "kernels": "attention on a GPU, against a copy's bandwidth and others' attention",
    "notebook": "a dashboard under load in a browser: lateness, messages, memory",
    "race": "time to answer against vLLM, llama.cpp, OpenVINO and transformers, each by itself",
    "sharing": "tokens, cells and time that sessions with one prompt and one feed save",
    "windows": "memory over thousands of ticks through sessions with windows",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(arguments[0] if arguments else "").parse_args(arguments)
    command = shlex.join(["python", "-m", "workbench.bench", *arguments])
    try:
        if (out := getattr(options, "out", None)) is not None:
            from workbench.bench.result import check_out

            check_out(out)
        return int(options.run(options, command))
    except (WorkbenchError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was written before stays", file=sys.stderr)
        return 130


def _parser(benchmark: str) -> argparse.ArgumentParser:
    """The command line; only the benchmark that is asked for imports what its options need."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.bench",
        description="Measurements against peers and against the machine's own limit. Each prints "
        "a table and writes JSON with versions, machine and command. Run them on an idle machine.",
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    latency = commands.add_parser(
        "latency",
        help="time to answer as the context grows, against plain transformers and the floor",
        description="A session and plain transformers (stateless, and with a cache kept warm by "
        "hand) read the same bars; at each context they answer the same 16-token question, a bar "
        "arriving before each. Before that their log-probabilities must agree. The floor is the "
        "bytes an answer must read over the measured read bandwidth, the roofline for each forward "
        "that or its arithmetic at what the processor computes at most, whichever takes longer. "
        "The model has random weights and is made on the spot; nothing is downloaded.",
    )
    if benchmark == "latency":
        _add_latency(latency)
    many = commands.add_parser("sessions", help=sessions.HELP, description=sessions.DESCRIPTION)
    if benchmark == "sessions":
        sessions.add_arguments(many)
    for name, what in OTHERS.items():
        other = commands.add_parser(name, help=what)
        if benchmark == name:
            module = importlib.import_module(f"workbench.bench.{name}")
            other.description = module.DESCRIPTION
            module.add_arguments(other)
    return parser


def _add_latency(latency: argparse.ArgumentParser) -> None:
    from workbench.bench.latency import Options
    from workbench.bench.model import SIZES

    usual = Options()
    shown = "(default: %(default)s)"
    latency.add_argument(
        "--contexts", type=int, nargs="+", default=usual.contexts, metavar="TOKENS",
        help=f"tokens before the question, ascending (default: {_words(usual.contexts)})",
    )  # fmt: skip
    latency.add_argument(
        "--repeats", type=int, default=usual.repeats, metavar="N",
        help=f"measured rounds per context {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--stateless-repeats", type=int, default=usual.stateless_repeats, metavar="N",
        help=f"how many of the rounds also ask the stateless peer, which takes long {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--size", choices=sorted(SIZES), default=usual.size,
        help=f"the model's size; tiny is for trying the command, its times mean nothing {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--dtype", choices=["auto", "bfloat16", "float32"], default=usual.dtype,
        help=f"of everyone; auto is bfloat16 where the CPU multiplies it, else float32 {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--threads", type=int, default=usual.threads, metavar="N",
        help=f"CPU threads of torch {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--seed", type=int, default=usual.seed, metavar="N",
        help=f"of the weights and of the stream {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--device", default=usual.device, metavar="DEVICE",
        help=f"cpu or cuda; 8b is a size for GPUs {shown}",
    )  # fmt: skip
    latency.add_argument(
        "--more-peers", action=argparse.BooleanOptionalAction,
        help="also transformers with a compiled static cache, and its continuous batching "
        "(default: on a GPU)",
    )  # fmt: skip
    latency.add_argument(
        "--out", type=Path, metavar="FILE",
        help="where to write the JSON (default: data/bench/latency-<processor>.json)",
    )  # fmt: skip
    latency.set_defaults(run=_latency)


def _words(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def _latency(options: argparse.Namespace, command: str) -> int:
    from workbench.bench import latency, report, result

    for found in latency.run(
        latency.Options(
            contexts=tuple(options.contexts),
            repeats=options.repeats,
            stateless_repeats=options.stateless_repeats,
            size=options.size,
            dtype=options.dtype,
            threads=options.threads,
            seed=options.seed,
            device=options.device,
            more_peers=options.more_peers,
        ),
        command,
    ):  # what there is stays if it is interrupted
        path = result.write(found, "latency", options.out, options.device)
    print(report.table(found))
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    start_again()
    sys.exit(main())
