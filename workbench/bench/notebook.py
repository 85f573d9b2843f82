"""A dashboard under load, in a real browser: how late it shows things, messages, memory."""

from __future__ import annotations

import argparse
import bisect
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from workbench.bench import result
from workbench.errors import WorkbenchError
from workbench.metrics import percentile
from workbench.notebook import lab

DESCRIPTION = (
    "Opens JupyterLab in headless Chromium with the whole dashboard, streams ticks into several "
    "sessions with flash queries, and compares what the page shows at each moment with what the "
    "engine had by then. Counts the messages that the page receives, and follows the memory of the "
    "kernel and of the page."
)
LOOK_MS = 100  # how often the page is read
SAMPLE_S = 10.0  # how often memory is
COLLECT_S = 60.0  # how often the page's garbage is collected for that, which stops the page a while

_SETUP = """\
import asyncio, itertools, json, os
import workbench as wb
from workbench.bench.stream import bars
from workbench.events import Committed, FlashAnswered

engine = wb.Engine(cells={sessions} * 4096 + 8192, watermark=8192, progress=False)
log = open("log.jsonl", "w")  # not in memory, which is measured

def note(event):
    if isinstance(event, Committed):
        log.write(json.dumps([event.time, event.session, event.version]) + "\\n")
    elif isinstance(event, FlashAnswered):
        name = event.session + "/" + event.flash
        log.write(json.dumps([event.time, name, event.version]) + "\\n")

engine.events.subscribe(note)
sessions = [
    engine.open(f"s{{i}}", prompt="You watch the tape.", schema="ohlcv", cells=4096,
                overflow="rebuild", window=1024)
    for i in range({sessions})
]
kinds = [("Was the last bar up or down?", ["up", "down"]), ("What was the last close?", None)]
for i in range({flash}):
    question, choices = kinds[i // {sessions} % 2]
    sessions[i % {sessions}].flash(question, choices=choices, max_tokens=8, name=f"q{{i}}")
with open("kernel.pid", "w") as file:
    file.write(str(os.getpid()))
"""
_DASHBOARD = "wb.dashboard()"
_RUN = """\
feeds = [
    s.stream(bars(i), rate={ticks} / {sessions}, progress=False) for i, s in enumerate(sessions)
]

async def ask_now_and_then():
    for s in itertools.cycle(sessions):
        await s.ask_async("What was the last close?", max_tokens=8)
        await asyncio.sleep(1)

asking = asyncio.create_task(ask_now_and_then())
"""
_END = """
asking.cancel()
for feed in feeds:
    feed.stop()
stats = engine.stats()
errors = [repr(x.error) for x in (*feeds, *sessions) if x.error is not None]
engine.close()
log.close()
with open("engine.json", "w") as file:
    json.dump({"sent": [f.rows_sent for f in feeds], "steps": stats.steps,
               "ticks": stats.ticks, "evaluations": stats.flash_evaluations,
               "answers": stats.answers, "rebuilds": stats.rebuilds, "behind": stats.behind,
               "lag_s_p95": stats.lag_s_p95, "errors": errors}, file)
print("written")
"""
# What the page shows, with the time: [ms, {"s0": version, ..., "s0/q0": version}].
_READ = """every => {
  window.seen = [];
  const number = words => Number((words.match(/[\\d,]+$/) || ['-1'])[0].replaceAll(',', ''));
  setInterval(() => {
    const shown = {};
    for (const row of document.querySelectorAll('.wb-sessions tbody tr')) {
      const name = row.querySelector('.wb-name').textContent;
      shown[name] = number(row.querySelector('.wb-col-version').textContent);
    }
    for (const row of document.querySelectorAll('.wb-flash tbody tr')) {
      const where = row.querySelector('.wb-where').firstChild.textContent;
      const [name, query] = where.split(' \\u00b7 ');
      const title = row.querySelector('.wb-col-age').title;
      if (title) shown[`${name}/${query}`] = number(title);
    }
    window.seen.push([Date.now(), shown]);
  }, every);
}"""
_TAKE = "() => window.seen.splice(0)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    shown = "(default: %(default)s)"
    for name, usual, what in (
        ("--sessions", 8, "sessions"), ("--flash", 16, "flash queries over all of them"),
        ("--ticks", 50, "bars per second over all of them"), ("--seconds", 300, "of load"),
    ):  # fmt: skip
        parser.add_argument(name, type=int, default=usual, metavar="N", help=f"{what} {shown}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Measure, print the table, write the JSON."""
    if lab.chromium_path() is None:
        msg = "no Chromium is installed; expected `chromium` on the PATH"
        raise WorkbenchError(msg)
    load = {name: getattr(options, name) for name in ("sessions", "flash", "ticks", "seconds")}
    found = result.header("notebook", command) | {"load": load} | measure(**load)
    print(table(found))
    print(f"\nwritten to {result.write(found, 'notebook-tape', options.out)}")
    return 0


def measure(sessions: int, flash: int, ticks: int, seconds: int) -> dict[str, Any]:
    """Run the load for so many seconds; see ``DESCRIPTION``."""
    names = {"sessions": sessions, "flash": flash, "ticks": ticks}
    cells = [_SETUP.format(**names), _DASHBOARD, _RUN.format(**names)]
    with (
        tempfile.TemporaryDirectory() as place,
        lab.jupyterlab(Path(place)) as (url, folder),
        lab.chromium() as browser,
    ):
        lab.write_notebook(folder / "load.ipynb", cells)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        messages = _count_messages(page)
        lab.open_notebook(page, url, "load.ipynb")
        if errors := lab.run_all(page):
            raise WorkbenchError("; ".join(errors))
        page.wait_for_selector(".wb-sessions tbody tr")
        page.evaluate(_READ, LOOK_MS)
        found = _follow(page, int((folder / "kernel.pid").read_text()), messages, seconds)
        lab.execute(page, _END)
        kernel = json.loads((folder / "engine.json").read_text())
        log = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        found |= {"late_s": _lateness(log, found.pop("seen"))}
        lab.shut_down(page)
    if kernel["errors"]:
        raise WorkbenchError("; ".join(kernel["errors"]))
    return found | {"engine": kernel}


def _count_messages(page: Any) -> list[float]:
    """The times at which the page receives something over a web socket."""
    received: list[float] = []

    def follow(socket: Any) -> None:
        socket.on("framereceived", lambda _: received.append(time.time()))

    page.on("websocket", follow)
    return received


def _follow(page: Any, kernel: int, messages: list[float], seconds: int) -> dict[str, Any]:
    tools = page.context.new_cdp_session(page)
    began, samples, seen = time.time(), [], []
    collected, page_mb = -COLLECT_S, 0.0
    with tqdm(total=seconds, unit=" s", leave=False) as bar:
        while (passed := time.time() - began) < seconds:
            if passed >= collected + COLLECT_S:
                collected = passed
                tools.send("HeapProfiler.collectGarbage")
                page_mb = tools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
            samples.append({"seconds": passed, "kernel_mb": _resident_mb(kernel),
                            "page_mb": page_mb})  # fmt: skip
            page.wait_for_timeout(1e3 * min(SAMPLE_S, seconds - passed))
            seen += page.evaluate(_TAKE)
            bar.update(int(time.time() - began) - bar.n)
    received = [at for at in messages if at >= began]
    per_second = [0] * (int(time.time() - began) + 1)
    for at in received:
        per_second[int(at - began)] += 1
    return {
        "samples": samples,
        "seen": seen,
        "messages": {
            "mean_per_s": len(received) / (time.time() - began),
            "most_in_a_second": max(per_second),
        },
    }


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _lateness(
    log: Iterable[tuple[float, str, int]], seen: Sequence[tuple[float, dict[str, int]]]
) -> dict[str, Any]:
    """How long the engine had had something newer than what the page showed, at each look."""
    newer: dict[str, tuple[list[int], list[float]]] = {}
    for at, name, version in log:
        versions, times = newer.setdefault(name, ([], []))
        versions.append(version)
        times.append(at)
    late: dict[str, list[float]] = {"versions": [], "flash answers": []}
    for at_ms, shown in seen:
        for name, version in shown.items():
            versions, times = newer.get(name, ([], []))
            first = bisect.bisect_right(versions, version)
            since = times[first] if first < len(times) else at_ms / 1e3
            kind = "flash answers" if "/" in name else "versions"
            late[kind].append(max(0.0, at_ms / 1e3 - since))
    return {
        kind: {
            "looks": len(values), "p50": percentile(values, 0.5), "p95": percentile(values, 0.95),
            "p99": percentile(values, 0.99), "worst": max(values),
            "share_above_half_a_second": sum(v > 0.5 for v in values) / len(values),
        }
        for kind, values in late.items()
        if values
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Memory over time, how late the page was, and how much it was sent."""
    lines = [
        [f"{s['seconds']:,.0f}", f"{s['kernel_mb']:,.0f}", f"{s['page_mb']:,.1f}"]
        for s in found["samples"]
    ]
    late = [
        [kind, *(f"{1e3 * of[k]:,.0f}" for k in ("p50", "p95", "p99", "worst")), f"{of['looks']:,}"]
        for kind, of in found["late_s"].items()
    ]
    engine, messages = found["engine"], found["messages"]
    return (
        f"{result.table(['seconds', 'kernel MB', 'page MB'], lines)}\n\n"
        f"{result.table(['late, ms', 'p50', 'p95', 'p99', 'worst', 'looks'], late)}\n\n"
        f"{messages['mean_per_s']:.1f} messages a second on average, "
        f"{messages['most_in_a_second']} at most; {sum(engine['sent']):,} rows sent, "
        f"{engine['ticks']:,} visible, {engine['evaluations']:,} flash evaluations, "
        f"{engine['answers']:,} answers in {engine['steps']:,} steps"
    )
