"""The demo, run: what it prints, writes, refuses, and keeps when it is stopped."""

import subprocess
import sys

from workbench.demo import __main__ as demo


def test_a_quick_run_answers_prints_its_table_and_draws_its_figure(tmp_path, capsys):
    out = tmp_path / "new" / "latency.html"
    assert demo.main(["--quick", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "btc    What was the last close?" in shown
    assert "stocks What was the last value of GOOG?" in shown
    assert "flash query of eth (last bar):" in shown
    lines = shown.splitlines()
    heads = next(i for i, line in enumerate(lines) if line.split()[:1] == ["context"])
    small, large = (line.split() for line in lines[heads + 2 : heads + 4])
    assert 150 < int(small[0]) < int(large[0]) < 1000
    assert all(float(value.rstrip("x").replace(",", "")) > 0 for value in small + large)
    assert max(len(line) for line in lines if str(out) not in line) <= demo.WIDTH
    html = out.read_text()
    assert "Plotly.newPlot" in html and "session: first token" in html
    assert "<script src=" not in html  # opens offline


def test_without_enough_bars_it_ends_with_one_line(tmp_path, capsys):
    assert demo.main(["--bars", "3", "--out", str(tmp_path / "x.html")]) == 1
    caught = capsys.readouterr()
    assert caught.err == "WorkbenchError: --bars 3: expected at least 24\n"


def test_more_bars_than_the_model_reads_are_refused_with_the_number_that_fits(tmp_path, capsys):
    assert demo.main(["--bars", "5000", "--out", str(tmp_path / "x.html")]) == 1
    error = capsys.readouterr().err
    assert "use at most --bars 8" in error
    assert error.count("\n") == 1


def test_an_interrupt_shows_what_was_measured_until_then(tmp_path, capsys, monkeypatch):
    times = []

    def interrupted(engine, desk, plain):
        if times:
            raise KeyboardInterrupt
        times.append(desk)
        return demo.Point(400, 5.0, 20.0, 0.02, 50.0)

    monkeypatch.setattr(demo, "_time", interrupted)
    out = tmp_path / "latency.html"
    assert demo.main(["--quick", "--out", str(out)]) == 130
    shown = capsys.readouterr().out
    assert "stopped; this is what was measured until then" in shown
    assert "10.0x" in shown
    assert out.exists()


def test_help_says_what_it_does():
    help_text = subprocess.run(
        [sys.executable, "-m", "workbench.demo", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--quick" in help_text and "Ctrl-C" in help_text
