"""``python -m workbench.bench sessions``: its options, and what it runs for them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from workbench.bench.sessions import report
from workbench.bench.sessions.arrivals import Sizes, Workload, arrivals
from workbench.bench.sessions.measure import summary
from workbench.bench.sessions.simulate import Simulation
from workbench.errors import WorkbenchError
from workbench.scheduler.cost import CostModel
from workbench.scheduler.scheduler import StepLimits

HELP = "many sessions at once: latencies, lag and freshness, live or simulated"
DESCRIPTION = (
    "Ticks and questions arrive at many sessions, the same ones for the same options. A live run "
    "sends them to an engine in real time and saves what steps cost on this machine. --simulate "
    "replays them through the same scheduler on a virtual clock, where a step takes what a cost "
    "model says; nothing is computed. With --cost it uses a live run's model, and if the arrivals "
    "are that run's too, shows both side by side. Latencies count from the moment something was "
    "due, sent late or not."
)
SIMULATED = "simulated"
WATERMARK = 4096  # as a live run's, where there was none
DRAIN_S = 60.0
MOST_ERROR = 0.25  # of predicted step times, beyond which a simulation says so

ARRIVALS = {
    "sessions": "how many are open",
    "seconds": "how long data and questions come",
    "tick": "seconds between a session's ticks",
    "burst": "ticks that come at the same moment; the pause after them is as much longer",
    "tokens-per-tick": "of the data; a live run pushes as many bars as come closest",
    "context": "tokens a session holds when it begins",
    "questions-per-second": "to all sessions together, at random moments",
    "question-tokens": "tokens of a question",
    "answer-tokens": "tokens of an open answer",
    "choices-share": "share of the questions that choose between two answers",
    "flash": "standing questions per session",
    "seed": "of everything that is random",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    usual = Workload()
    for name, what in ARRIVALS.items():
        value = getattr(usual, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=type(value), default=value, metavar="N",
            help=f"{what} (default: %(default)s)",
        )  # fmt: skip
    parser.add_argument(
        "--together", action="store_true", help="all sessions tick at the same moments"
    )
    parser.add_argument(
        "--simulate", action="store_true", help="no model: replay on a virtual clock, in seconds"
    )
    parser.add_argument(
        "--cost", type=Path, metavar="FILE",
        help="simulate with the step costs in a live run's JSON (default: made-up ones)",
    )  # fmt: skip
    parser.add_argument(
        "--drain", type=float, default=DRAIN_S, metavar="S",
        help="seconds to wait after the last arrival for what is under way (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="tape", metavar="NAME",
        help="live: tape, the embedded model, or 250m or tiny, made on the spot with random "
        "weights; the times of tiny mean nothing (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--alone", action="store_true",
        help="live: afterwards also plain transformers, one request at a time",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="live: auto is bfloat16 where the CPU multiplies it, else float32",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N", help="live: CPU threads of torch (default: torch's own)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="where to write the JSON (default: data/bench/sessions-<model>-<cpu>.json for a live "
        "run, nowhere for a simulated one)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Run it live or simulated, print the table, write the JSON."""
    names = [field.name for field in dataclasses.fields(Workload)]
    workload = Workload(**{name: getattr(options, name) for name in names})
    if not 0 <= options.drain < float("inf"):
        msg = f"drain {options.drain}: expected seconds, 0 or more"
        raise WorkbenchError(msg)
    if options.simulate:
        if options.alone:
            msg = "--alone runs a model; leave out --simulate, or --alone"
            raise WorkbenchError(msg)
        result = simulated(workload, options.cost, options.drain, command)
        out = options.out
    else:
        if options.cost is not None:
            msg = "--cost is for --simulate; a live run learns its own"
            raise WorkbenchError(msg)
        from workbench.bench import machine
        from workbench.bench.sessions import live

        result = live.run(
            workload,
            live.Options(
                model=options.model, dtype=options.dtype, threads=options.threads,
                drain=options.drain, alone=options.alone,
            ),
            command,
        )  # fmt: skip
        cpu = machine.short_name(machine.cpu_name())
        out = options.out or Path("data/bench") / f"sessions-{options.model}-{cpu}.json"
    print(report.table(result["workload"], result["systems"]))
    print(f"\nstep cost: {_cost_text(result)}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {out}")
    if result.get("alone_failed"):
        print(f"the plain loop did not finish: {result['alone_failed']}", file=sys.stderr)
        return 1
    return 0


def simulated(workload: Workload, cost: Path | None, drain: float, command: str) -> dict[str, Any]:
    """Replay on a virtual clock; the systems of a live run over the same arrivals come first.

    Args:
        workload: what arrives.
        cost: a live run's JSON, for its step costs, limits and sizes; None takes usual ones.
        drain: seconds to go on after the last arrival, at most.
        command: the command line, noted in the result.
    """
    lived = _read(cost) if cost is not None else {}
    due = arrivals(workload)
    # Numbers that JSON gives back as they were.
    same = lived.get("workload") == json.loads(json.dumps(dataclasses.asdict(workload)))
    sizes = Sizes(**lived["sizes"]) if same else Sizes.nominal(workload, due)
    limits = StepLimits(**lived["limits"]) if lived else StepLimits()
    model = CostModel(**lived["cost"]) if lived else CostModel()
    watermark = lived.get("watermark", WATERMARK)
    log = Simulation(
        workload, due, sizes, cost=model, limits=limits, watermark=watermark, drain=drain
    ).run()
    found = summary(due, log, sessions=workload.sessions, flash=workload.flash)
    return {
        "benchmark": "sessions, simulated",
        "command": command,
        "workload": dataclasses.asdict(workload),
        "drain": drain,
        "watermark": watermark,
        "limits": dataclasses.asdict(limits),
        "cost": model.coefficients,
        "cost_of": lived.get("command", "made up"),
        "cost_error_p50": lived["systems"][0].get("step_prediction_error_p50") if lived else None,
        "same_arrivals": same,
        "systems": [*(lived["systems"] if same else ()), {"system": SIMULATED, **found}],
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        lived = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = f"--cost {path}: expected the JSON of a live run, got {error}"
        raise WorkbenchError(msg) from error
    if not isinstance(lived, dict) or lived.get("benchmark") != "sessions":
        msg = (
            f"--cost {path}: expected the JSON of a live run; make one with "
            "python -m workbench.bench sessions --out FILE"
        )
        raise WorkbenchError(msg)
    return lived


def _cost_text(result: dict[str, Any]) -> str:
    cost = result["cost"]
    others = ""
    error = result.get("cost_error_p50")
    if error is not None and error > MOST_ERROR:
        others = (
            f"; it was off by {error:.0%} in the median step of the live run, so mind the order of "
            "things here, not the milliseconds"
        )
    text = (
        f"{cost['base'] * 1e3:.2f} ms + {cost['per_token'] * 1e6:.1f} us per token + "
        f"{cost['per_read'] * 1e9:.2f} ns per token and cell it reads; "
        f"steps of {result['limits']['tokens']} tokens"
    )
    if "cost_of" not in result:
        return text
    if not result["same_arrivals"] and result["cost_of"] != "made up":
        others += "; other arrivals"
    return f"{text} ({result['cost_of']}{others})"
