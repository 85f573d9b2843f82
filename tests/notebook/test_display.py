import re
from array import array

import pytest

from workbench.answer import Answer
from workbench.notebook.display import (
    answer_html,
    answer_text,
    engine_html,
    flash_html,
    session_html,
    sessions_frame,
    stats_html,
    stats_text,
)
from workbench.testing import run_until_idle


def words(html):
    """What a reader sees of it."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


def answer(text="up", **fields):
    made = Answer("Up?", "btc")
    made.begin(array("i", range(100)), 40, 40, 3, 7)
    made.add(1, 0.0)
    made.show(text)
    made.end("stop")
    made.ttft_ms, made.total_ms = 12.3, 1500.0
    for name, value in fields.items():
        setattr(made, name, value)
    return made


NUMBERS = "confidence 1.00 | as of version 3, 40 tokens"


def test_an_answer_shows_its_text_and_its_latency():
    assert answer_text(answer()) == f"up\n[first token 12.3 ms, all 1.50 s | {NUMBERS}]"
    assert words(answer_html(answer())) == (
        "up first token 12.3 ms, all 1.50 s confidence 1.00 as of version 3, 40 tokens"
    )


def test_a_closed_answer_shows_every_choice():
    chosen = answer(choice="up", probabilities={"up": 0.75, "down": 0.25}, total_ms=8.0)
    assert words(answer_html(chosen)).startswith("up 75.0% down 25.0% 8.0 ms confidence 0.75")


def test_a_flash_hit_a_stopped_and_a_failed_answer_say_so():
    assert "[flash 0.05 ms |" in answer_text(answer(from_flash=True, total_ms=0.05))
    assert "| stopped |" in answer_text(answer(finish_reason="cancelled"))
    assert answer_text(answer(error=ValueError("x"))) == "up\n[failed]"


def test_an_answer_under_way_says_how_far_it_is():
    begun = Answer("Up?", "btc")
    assert answer_text(begun) == "\n[waiting]"
    begun.add(1, -1.0)
    begun.show("u")
    begun.ttft_ms = 5.0
    assert answer_text(begun) == "u\n[first token 5.0 ms | decoding]"
    assert "\u258d" in answer_html(begun)


def test_nobodys_words_become_markup(engine):
    bad = "<img src=x onerror=alert(1)>\"'"
    s = engine.open("<b>")
    query = s.flash(bad, choices=[bad, "no"])
    shown = answer_html(answer(bad)) + session_html(s) + flash_html(query)
    chosen = answer(bad, choice=bad, probabilities={bad: 1.0})
    assert "<img" not in shown + answer_html(chosen) and "<b>&lt;b&gt;" not in shown
    assert "&lt;img" in shown and "&lt;b&gt;" in shown


def test_a_flash_query_shows_its_answer_and_age(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    query = s.flash("Up?", choices=["up", "down"])
    assert words(flash_html(query)) == "Up? flash no answer yet"
    s.push("ab")
    run_dry(stepped)
    shown = words(flash_html(query))
    assert shown.startswith("Up? up") and f"fresh {query.evaluations} evaluations" in shown


def test_a_session_shows_how_full_it_is(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    s.push("ab")
    run_dry(stepped)
    assert words(session_html(s)) == (
        f"btc version 1 1 rows {s.position} of 200 tokens 0 rows waiting 0 flash queries"
    )
    s.close()
    assert words(session_html(s)) == "btc closed"


def test_engine_and_stats(stepped):
    stepped.open("btc", cells=200)
    assert "200 of 2,048 cells taken" in words(engine_html(stepped))
    text, html = stats_text(stepped.stats()), stats_html(stepped.stats())
    assert re.sub(r"\s+", " ", text).strip() == words(html)
    assert "sessions           btc 200" in text
    stepped.close()
    assert words(engine_html(stepped)).endswith("closed")


def test_the_frame_of_sessions(stepped):
    assert sessions_frame(None).height == 0
    stepped.open("btc", cells=200)
    assert sessions_frame(stepped).select("session", "budget").rows() == [("btc", 200)]


@pytest.mark.parametrize("kind", ["text/plain", "text/html"])
def test_the_shell_uses_them_until_unloaded(ip, engine, kind):
    s = engine.open("btc")
    formatter = ip.shell.display_formatter
    shown, _ = formatter.format(s)
    assert "version 0" in shown[kind]
    stats, _ = formatter.format(engine.stats())
    assert "flash evaluations" in stats[kind]
    found, _ = formatter.format(answer())
    assert "first token 12.3 ms" in found[kind]
    ip.run("%unload_ext workbench")
    shown, _ = formatter.format(s)
    assert "text/html" not in shown
    ip.run("%load_ext workbench")


def test_windows_and_evicted_sessions_say_so(make_engine):
    engine = make_engine(start=False, cells=1200, watermark=200)
    window = engine.open("window", cells=300, overflow="rebuild", window=60)
    turns = [engine.open(f"turn{i}", cells=600, evictable=True) for i in range(2)]
    for number in range(40):
        window.push(f"row {number}")
        run_until_idle(engine)
    for session in turns:
        session.push("data")
        run_until_idle(engine)
    shown = words(session_html(window))
    assert f"the last {window.window_rows} rows in view" in shown and "of 150 tokens" in shown
    assert "evicted, about" in words(session_html(turns[0])) and turns[0].state == "evicted"
    assert sessions_frame(engine)["state"].to_list() == ["open", "evicted", "open"]
    assert "0 of 1 evicted sessions back" in stats_text(engine.stats())
    assert f"{engine.stats().rebuilds} windows rebuilt" in stats_text(engine.stats())
    assert engine.stats().rebuilds > 0
