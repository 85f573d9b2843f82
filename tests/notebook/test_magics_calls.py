"""Whatever a magic does, two lines of Python do: both are run, and must make the same calls."""

import contextlib
import inspect

import pytest

import workbench as wb
from workbench.errors import OptionsError
from workbench.notebook.commands import CELL, COMMANDS
from workbench.streams.frames import to_rows

METHODS = {
    "open": (wb.Engine, "open"),
    "fork": (wb.Session, "fork"),
    "save": (wb.Session, "save"),
    "restore": (wb.Engine, "restore"),
    "ask": (wb.Session, "ask_start"),
    "push": (wb.Session, "push"),
    "stream": (wb.Session, "stream"),
    "flash": (wb.Session, "flash"),
    "backtest": (wb.Session, "backtest_start"),
    "close": (wb.Session, "close"),
    "use": (wb.Engine, "session"),
    "status": (wb.Engine, "stats"),
}


@pytest.fixture
def calls(monkeypatch):
    """The calls that reach sessions and the engine, with all defaults filled in."""
    made = []

    def record(owner, name):
        real = getattr(owner, name)
        signature = inspect.signature(real)

        def method(self, *args, **keywords):
            bound = signature.bind(self, *args, **keywords)
            bound.apply_defaults()
            given = dict(list(bound.arguments.items())[1:])
            for key in ("choices", "data"):
                if given.get(key) is not None:
                    given[key] = to_rows(given[key]) if key == "data" else list(given[key])
            made.append((name, given))
            return real(self, *args, **keywords)

        monkeypatch.setattr(owner, name, method)

    for owner, name in METHODS.values():
        record(owner, name)
    return made


@pytest.mark.parametrize("command", [*sorted(METHODS), "cell"])
def test_a_commands_python_makes_the_calls_that_its_example_makes(
    ip, make_engine, calls, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    entry = CELL if command == "cell" else COMMANDS[command]
    seen = []
    for code in (entry.example, entry.python):
        engine = make_engine()
        ip.run("import workbench as wb")
        ip["engine"], ip["bars"] = engine, BARS
        if command != "open":
            ip["s"] = engine.open("btc", schema="ohlcv")
            ip["s"].push(BARS).wait()
            ip["s"].save("btc.session")
        calls.clear()
        ip.run(code)
        wanted = METHODS["ask" if command == "cell" else command][1]
        seen.append([call for call in calls if call[0] == wanted])
        if command == "stream":
            ip.run("%stateful stream --end" if "%" in code else "feed.stop()")
        engine.close()
    assert seen[0] == seen[1] and len(seen[0]) == 1


BARS = [{"o": 1.0 + i, "h": 2.0 + i, "l": 0.5, "c": 1.5, "time": i} for i in range(6)]

# a value of each option as it is written, and as the method gets it
VALUES = {
    "--prompt": ('"Watch."', "Watch."), "--schema": ("ohlcv", "ohlcv"), "--cells": ("512", 512),
    "--overflow": ("rebuild", "rebuild"), "--window": ("100", 100), "--evictable": ("", True),
    "--wait": ("5", 5.0), "--on-full": ("raise", "raise"), "--max-pending": ("9", 9),
    "--choices": ("up,down", ["up", "down"]), "--max-tokens": ("2", 2), "--stop": ("x", "x"),
    "--temperature": ("0.5", 0.5), "--top-p": ("0.5", 0.5), "--seed": ("3", 3),
    "--at": ("v1", wb.version(1)), "--rate": ("200", 200.0), "--speed": ("60x", "60x"),
    "--no-cells": ("", False), "--compute": ("", True),
    "--every": ("2", 2), "--from": ("2", 2), "--to": ("4", 4), "--name": ("trend", "trend"),
}  # fmt: skip
BESIDE = {
    "--window": "--overflow rebuild --cells 512", "--top-p": "--temperature 1",
    "--seed": "--temperature 1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"),
    [(c, o.name) for c, entry in COMMANDS.items() for o in entry.options if o.is_keyword],
)
def test_every_option_reaches_the_method_as_the_keyword_it_sets(
    ip, engine, calls, command, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (key,) = (o.key for o in COMMANDS[command].options if o.name == name)
    text, value = VALUES[name]
    rest = {"open": "new", "fork": "btc new", "save": "btc file", "restore": "file",
            "stream": "btc bars"}.get(command, "btc Up?")
    if command == "backtest" and name != "--every":
        rest += " --every 2"
    s = engine.open("btc", schema="ohlcv")
    s.push(BARS).wait()
    if command == "restore":
        s.save("file")
        s.close()
    ip["bars"] = BARS
    calls.clear()
    ip.run(f"%stateful {command} {rest} {BESIDE.get(name, '')} {name} {text}")
    (call,) = [given for called, given in calls if called == METHODS[command][1]]
    assert call[key] == value
    if command == "stream":
        with contextlib.suppress(OptionsError):  # a few rows may have ended by themselves
            ip.run("%stateful stream --end")


@pytest.mark.parametrize(
    ("first", "method", "key", "value"),
    [
        *[
            (f"{BESIDE.get(o.name, '')} {o.name} {VALUES[o.name][0]}", "ask_start", o.key,
             VALUES[o.name][1])
            for o in COMMANDS["ask"].options
            if o.is_keyword
        ],
        ("--flash --choices up,down", "flash", "choices", ["up", "down"]),
        ("--backtest 3", "backtest_start", "every", 3),
        ("--backtest 3 --from 2", "backtest_start", "start", 2),
        ("--backtest 3 --to 4", "backtest_start", "end", 4),
        ("--stream bars", "stream", "source", BARS),
        ("--stream bars --rate 200", "stream", "rate", 200.0),
        ("--stream bars --speed 60x", "stream", "speed", "60x"),
        ("--stream bars --every 2", "stream", "every", 2),
        ("--push", "push", "data", ["Is it up?"]),
    ],
)  # fmt: skip
def test_the_same_of_a_cells_options(opened, engine, calls, first, method, key, value):
    engine.session("btc").push(BARS).wait()
    opened["bars"] = BARS
    calls.clear()
    opened.run(f"%%stateful btc {first}\nIs it up?")
    assert dict(calls)[method][key] == value
