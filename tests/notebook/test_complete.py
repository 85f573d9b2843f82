import os

import pytest
from IPython.core.completer import provisionalcompleter

import workbench as wb
from workbench.notebook import complete
from workbench.notebook.commands import CELL, COMMANDS
from workbench.notebook.complete import Query, Scene, models, scene_of, suggestions

SCENE = Scene(
    {"btc": ("open", "close"), "eth": ()},
    [Query("btc", "trend", ("up", "down")), Query("eth", "close now", paused=True)],
    ["bars", "rows", "threshold"],
    last="btc",
)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("%stateful op", ["open"]),
        ("%stateful ask bt", ["btc"]),
        ("x = %stateful ask bt", ["btc"]),
        ("%stateful ask btc Up? --ch", ["--choices"]),
        ("%stateful open btc --schema ", [
            "ohlcv", "iot", "vitals", "event", "spatial", "rows",
        ]),
        ("%stateful open btc --schema=oh", ["--schema=ohlcv"]),
        ("%stateful open btc --on-full dr", ["drop_oldest"]),
        ("%stateful open btc --overflow re", ["rebuild"]),
        ("%stateful open btc --cells ", []),
        ("%stateful open et", []),
        ("%stateful close ", ["btc", "eth", "--all"]),
        ("%stateful help ba", ["backtest"]),
        ("%stateful help ce", ["cell"]),
        ("%stateful list ", []),
        ("%stateful nonsense ", []),
        ("%%stateful e", ["eth"]),
        ("%%stateful btc --p", ["--push"]),
        ("%%stateful btc --push --pu", []),
        ("%%stateful btc --push --ch", []),  # it would be refused
        ("%%stateful btc --choices up,down --b", ["--backtest"]),
        ("%%stateful btc --backtest 5 --f", ["--from"]),
        ("%stateful", []),
        ("%statefulness op", []),
        ("open bt", []),
        # values that the session knows
        ("%stateful ask btc Up? --choices ", ["up,down", "yes,no", "above,below"]),
        ("%stateful flash --pause ", ["trend"]),
        ("%stateful flash --resume ", ['"close now"']),
        ("%stateful flash --remove ", ["trend", '"close now"']),
        ("%stateful flash btc --remove ", ["trend"]),
        # variables
        ("%stateful push btc ", ["bars", "rows", "threshold"]),
        ("%stateful push btc ro", ["rows"]),
        ("%stateful push btc rows ", []),
        ("%stateful stream btc ba", ["bars"]),
        ("%stateful stream btc bars --ra", ["--rate"]),
        ("%%stateful btc --stream t", ["threshold"]),
        ("%stateful ask btc Above {th", ["{threshold}"]),
        # columns, in a question
        ("%stateful ask btc What was the last cl", ["close"]),
        ("%stateful ask What was the last cl", ["close"]),
        ("%stateful backtest btc Is o", ["open"]),
        ("%stateful flash eth Is o", []),
        ("%stateful push btc o", []),
    ],
)
def test_what_may_stand_next(before, words):
    assert suggestions(before, SCENE) == words


@pytest.mark.parametrize(
    ("first", "before", "words"),
    [
        ("%%stateful btc", "What was the last cl", ["close"]),
        ("%%stateful --choices up,down", "Is o", ["open"]),
        ("%%stateful eth", "What was the last cl", []),
        ("%%stateful btc", "Above {th", ["{threshold}"]),
        ("%%stateful btc --push", "o", []),
        ("%%time", "What was the last cl", []),
    ],
)
def test_a_cells_question_completes_columns(first, before, words):
    assert suggestions(before, SCENE, first) == words


def test_names_and_options_after_the_cell_magic():
    assert suggestions("%%stateful ", Scene({"btc": ()}))[:2] == ["btc", "--choices"]


def test_every_option_that_names_its_values_completes_them():
    for command, entry in (*COMMANDS.items(), (None, CELL)):
        for option in entry.options:
            line = "%%stateful" if command is None else f"%stateful {command} x"
            offered = suggestions(f"{line} {option.name} ", Scene())
            assert set(option.values) <= set(offered) or not option.value


def test_frames_come_first_and_what_is_no_data_not_at_all(engine):
    import polars as pl

    names = {
        "number": 1, "frame": pl.DataFrame({"a": [1]}), "items": [1], "row": {"a": 1},
        "reader": lambda: None, "_hidden": [], "wb": wb, "Engine": wb.Engine,
    }  # fmt: skip
    found = scene_of(engine, names, "btc")
    assert found.variables == ["frame", "items", "row", "number", "reader"]
    assert found.last == "btc"


def test_the_scene_of_an_engine(engine):
    plain, bars = engine.open("plain"), engine.open("bars", schema="ohlcv")
    plain.push({"price": 1.0, "size": 2})
    bars.push({"o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0})
    plain.flash("Up?", choices=["up", "down"], name="trend").pause()
    found = scene_of(engine, {})
    assert found.columns == {
        "plain": ["price", "size"], "bars": ["open", "high", "low", "close"],
    }  # fmt: skip
    assert found.queries == [Query("plain", "trend", ("up", "down"), paused=True)]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A working directory with models in it, and a Hugging Face cache."""
    here, cache = tmp_path / "here", tmp_path / "hub"
    for folder in ("mine", "models/small", ".git/hidden", "a/b/c/deep"):
        (here / folder).mkdir(parents=True)
        (here / folder / "config.json").write_text("{}")
    (here / "data").mkdir()
    for folder in ("models--org--tiny", "models--gpt2", "datasets--org--rows"):
        (cache / folder / "snapshots/1").mkdir(parents=True)
        (cache / folder / "snapshots/1/config.json").write_text("{}")
    (cache / "models--org--half").mkdir()  # a download that was broken off
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return here


def test_models_are_found_near_here_and_in_the_cache(folders):
    assert models(folder=folders) == ["mine", "models/small", "gpt2", "org/tiny"]
    scene = Scene(folder=folders)
    assert suggestions("%stateful open a --model or", scene) == ["org/tiny"]
    assert suggestions("%stateful open a --model m", scene) == ["mine", "models/small"]
    assert suggestions("%stateful open a --model a/b/c/", scene) == ["a/b/c/deep"]
    typed = suggestions(f"%stateful open a --model {folders}/m", scene)
    assert typed == [f"{folders}/mine", f"{folders}/models/"]


def test_models_never_raise_and_a_deep_tree_takes_no_time(folders, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", None)
    assert models(folder=folders) == ["mine", "models/small"]
    monkeypatch.setattr(complete, "SCAN_S", -1.0)  # out of time: only what lies here is seen
    seen = []
    real = os.walk
    monkeypatch.setattr(
        complete.os, "walk", lambda top: (seen.append(at[0]) or at for at in real(top))
    )
    assert models(folder=folders) == []
    assert seen == [str(folders)]


@pytest.mark.parametrize(
    ("line", "completion"),
    [
        ("%stateful ask bt", "btc"),
        ("%stateful ask btc Up? --max", "--max-tokens"),
        ("%%stateful bt", "btc"),
        ("%stateful open x --schema oh", "ohlcv"),
        ("%stateful push btc mybar", "mybars"),
        ("%stateful ask btc What was the last cl", "close"),
        ("%%stateful btc\nWhat was the last cl", "close"),
        ("%stateful flash --pause tr", "trend"),
        ("%stateful ask btc Above {thresh", "{threshold}"),
    ],
)
def test_tab_in_the_shell(ip, engine, line, completion):
    s = engine.open("btc")
    s.push({"close": 1.0})
    s.flash("Up?", choices=["up", "down"], name="trend")
    ip["mybars"], ip["threshold"] = [1], 5
    with provisionalcompleter():
        found = list(ip.shell.Completer.completions(line, len(line)))
    completed = {line[: at.start] + at.text + line[at.end :] for at in found}
    start = line[: -len(line.replace("\n", " ").rsplit(" ", 1)[1])]
    assert completed == {start + completion}


def test_a_cell_of_another_magic_is_left_alone(ip, engine):
    engine.open("btc").push({"close": 1.0})
    cell = "%%time\nclo"
    with provisionalcompleter():
        found = [at.text for at in ip.shell.Completer.completions(cell, len(cell))]
    assert "close" not in found
