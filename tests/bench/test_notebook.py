"""How late a page is, from what the engine had and what the page showed; and the command itself."""

import pytest

from workbench.bench import notebook
from workbench.bench.__main__ import main
from workbench.notebook.lab import chromium_path


def test_a_page_is_late_from_when_the_engine_had_something_newer():
    log = [(10.0, "a", 1), (11.0, "a", 2), (11.2, "a", 3), (10.5, "a/q", 1), (12.0, "a/q", 3)]
    seen = [
        (10_900.0, {"a": 1, "a/q": 1}),  # up to date
        (11_500.0, {"a": 1, "a/q": 1}),  # version 2 has been there for half a second
        (12_100.0, {"a": 3, "a/q": 1}),
    ]
    late = notebook._lateness(log, seen)
    assert late["versions"] == pytest.approx(
        {"looks": 3, "p50": 0.0, "p95": 0.5, "p99": 0.5, "worst": 0.5,
         "share_above_half_a_second": 0.0}
    )  # fmt: skip
    assert late["flash answers"]["worst"] == pytest.approx(0.1)


def test_a_page_that_is_ahead_of_its_clock_is_not_late():
    late = notebook._lateness([(10.0, "a", 1), (10.0, "b/q", 1)], [(9_990.0, {"a": 0, "b/q": 0})])
    assert late["versions"]["worst"] == late["flash answers"]["worst"] == 0.0


def test_how_many_looks_were_later_than_half_a_second():
    seen = [(10_000.0 + 200 * i, {"a": 0}) for i in range(5)]
    late = notebook._lateness([(10.0, "a", 1)], seen)  # late by 0, 0.2, 0.4, 0.6 and 0.8 s
    assert late["versions"]["share_above_half_a_second"] == 0.4
    assert "flash answers" not in late  # none were looked at


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="needs chromium")
def test_the_command_measures_and_writes(tmp_path, capsys):
    out = tmp_path / "load.json"
    words = ["notebook", "--sessions", "2", "--flash", "2", "--ticks", "8", "--seconds", "4"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "messages a second on average" in said and out.exists()
    import json

    found = json.loads(out.read_text())
    assert found["engine"]["ticks"] > 0 and found["late_s"]["versions"]["looks"] > 0
    assert found["load"] == {"sessions": 2, "flash": 2, "ticks": 8, "seconds": 4}


def test_without_a_browser_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("workbench.notebook.lab.chromium_path", lambda: None)
    assert main(["notebook"]) == 1
    assert "expected `chromium` on the PATH" in capsys.readouterr().err
