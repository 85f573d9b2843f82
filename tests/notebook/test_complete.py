import pytest
from IPython.core.completer import provisionalcompleter

from workbench.notebook.complete import suggestions


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("%stateful op", ["open"]),
        ("%stateful ask bt", ["btc"]),
        ("x = %stateful ask bt", ["btc"]),
        ("%stateful ask btc Up? --ch", ["--choices"]),
        ("%stateful open btc --schema ", ["ohlcv", "rows"]),
        ("%stateful open btc --on-full dr", ["drop_oldest"]),
        ("%stateful open btc --cells ", []),
        ("%stateful open et", []),
        ("%%stateful e", ["eth"]),
        ("%%stateful btc --p", ["--push"]),
        ("%%stateful btc --push --pu", []),
        ("%stateful", []),
        ("%statefulness op", []),
        ("open bt", []),
    ],
)
def test_what_may_stand_next(before, words):
    assert suggestions(before, ["btc", "eth"]) == words


def test_names_and_options_after_the_cell_magic():
    assert suggestions("%%stateful ", ["btc"])[:2] == ["btc", "--choices"]


@pytest.mark.parametrize(
    ("line", "completion"),
    [
        ("%stateful ask bt", "btc"),
        ("%stateful ask btc Up? --max", "--max-tokens"),
        ("%%stateful bt", "btc"),
        ("%stateful open x --schema oh", "ohlcv"),
    ],
)
def test_tab_in_the_shell(ip, engine, line, completion):
    engine.open("btc")
    with provisionalcompleter():
        found = list(ip.shell.Completer.completions(line, len(line)))
    completed = {line[: at.start] + at.text + line[at.end :] for at in found}
    assert completed == {line.rsplit(" ", 1)[0] + " " + completion}
