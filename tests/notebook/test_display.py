import re
from array import array

import pytest

import workbench as wb
from workbench.answer import Answer
from workbench.backtest import IN_FLIGHT
from workbench.comparison import Diff
from workbench.errors import QuestionError, RowError
from workbench.notebook.backtest_view import backtest_html, backtest_text
from workbench.notebook.display import (
    answer_html,
    answer_text,
    diff_html,
    diff_text,
    engine_html,
    engine_text,
    feed_html,
    feed_text,
    flash_html,
    flashes_frame,
    moment_html,
    moment_text,
    session_html,
    sessions_frame,
    stats_html,
    stats_text,
    tick_html,
    tick_text,
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
    assert "calibrated" not in answer_html(chosen)


def test_a_calibrated_answer_says_so_under_the_pointer():
    chosen = answer(choice="up", probabilities={"up": 0.8, "down": 0.2}, choice_temperature=2.0)
    assert chosen.calibrated == pytest.approx({"up": 2 / 3, "down": 1 / 3})
    assert 'title="calibrated 66.7%"' in answer_html(chosen)


def test_a_difference_shows_both_answers_and_what_moved():
    first = answer(choice="up", probabilities={"up": 0.75, "down": 0.25}, total_ms=8.0)
    second = answer("down", choice="down", probabilities={"up": 0.1, "down": 0.9}, total_ms=9.0)
    second.session_name = "<fork>"
    shown = words(diff_html(Diff(first, second)))
    assert shown.startswith("Up? btc up ") and " &lt;fork&gt; up " in shown
    assert shown.endswith(" different up -65.0% down +65.0%")
    both = f"btc: {answer_text(first)}\n<fork>: {answer_text(second)}"
    assert diff_text(Diff(first, second)) == both
    assert words(diff_html(Diff(answer(), answer()))).endswith("40 tokens the same")


def test_a_flash_hit_a_stopped_and_a_failed_answer_say_so():
    assert "[flash 0.05 ms |" in answer_text(answer(from_flash=True, total_ms=0.05))
    assert "| stopped |" in answer_text(answer(finish_reason="cancelled"))
    failed = answer(error=ValueError("<why>"), finish_reason="error")
    assert answer_text(failed) == "up\n[failed]"
    assert words(answer_html(failed)) == "up failed ValueError: &lt;why&gt;"


def test_an_answer_as_of_an_earlier_moment_says_which():
    then = answer(at=wb.row(500), row=500)
    assert "| as of row 500 | version 3, 40 tokens]" in answer_text(then)
    assert "as of row 500 version 3, 40 tokens" in words(answer_html(then))
    ago = answer(at=wb.row(-10), row=490)
    assert "| as of 10 rows ago, row 490 | version 3" in answer_text(ago)
    assert "| as of version 3 | version 3" in answer_text(answer(at=wb.version(3)))


def test_a_stateless_answer_says_what_it_computed():
    assert "| stateless, 2,000 tokens]" in answer_text(answer(stateless=True, context=2000))
    assert words(answer_html(answer(stateless=True, context=0))).endswith("1.00 stateless")


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
    s.push("a row")
    named = s.flash("Up?", name=bad)
    tests = [s.backtest(bad, choices=c, max_tokens=4, every=1, progress=False)
             for c in ([bad, "no"], None)]  # fmt: skip
    shown = answer_html(answer(bad)) + session_html(s) + flash_html(query) + flash_html(named)
    for test in tests:
        for told in test.answers:
            told.text = bad
        shown += backtest_html(test)
    shown += answer_html(answer(bad, error=ValueError(bad), finish_reason="error"))
    chosen = answer(bad, choice=bad, probabilities={bad: 1.0})
    assert "<img" not in shown + answer_html(chosen) and "<b><b>" not in shown
    assert "&lt;img" in shown and "&lt;b&gt;" in shown


def test_a_flash_query_shows_its_answer_and_age(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    query = s.flash("Up?", choices=["up", "down"])
    assert words(flash_html(query)) == "Up? flash no answer yet"
    assert flashes_frame([s])["state"].to_list() == ["waiting"]
    s.push("ab")
    run_dry(stepped)
    shown = words(flash_html(query))
    assert shown.startswith("Up? up") and "fresh 1 evaluation" in shown
    s.push("cd")
    query.pause()
    run_dry(stepped)
    assert words(flash_html(query)).endswith("flash 1 tick old 1 evaluation paused")
    query.remove()
    assert words(flash_html(query)).endswith("1 evaluation removed")
    query.error = QuestionError("<no>")
    assert "the latest failed: &lt;no&gt;" in flash_html(query)


def test_the_frame_of_flash_queries(stepped, run_dry):
    assert flashes_frame([]).height == 0
    s = stepped.open("btc", cells=300)
    query = s.flash("Is it up?", choices=["up", "down"], name="trend")
    s.flash("What next?", max_tokens=2)
    s.push("ab")
    run_dry(stepped)
    first, second = flashes_frame([s]).rows(named=True)
    assert first == {
        "session": "btc", "name": "trend", "question": "Is it up?", "choices": "up,down",
        "answer": query.answer.text, "confidence": query.answer.confidence, "version": 1,
        "age": 0, "evaluations": 1, "state": "fresh",
    }  # fmt: skip
    assert (second["choices"], second["name"]) == (None, "What next?")


@pytest.fixture
def tested(stepped, run_dry):
    """A session of so many rows, one by one, and its engine stepped dry."""

    def make(rows):
        s = stepped.open("btc", cells=1200)
        for number in range(rows):
            s.push(f"{number}")
            run_dry(stepped)
        return s

    return make


def test_a_backtest_shows_counts_a_strip_and_its_first_and_last_rows(tested, stepped, run_dry):
    s = tested(20)
    test = s.backtest_start("Up?", choices=["up", "down"], every=2)
    assert words(backtest_html(test)) == "Up? 0 moments under way"
    run_dry(stepped)
    ups = test.counts()["up"]
    text, html = backtest_text(test).splitlines(), backtest_html(test)
    assert text[:2] == ["Up?", "[10 moments | rows 2 to 20]"]
    assert text[2] == f"up \u00d7\u2009{ups}, down \u00d7\u2009{10 - ups}"
    assert [line.split()[0] for line in text[3:]] == [
        "row", "2", "4", "6", "\u2026", "16", "18", "20",
    ]  # fmt: skip
    first = test.answers[0]
    assert text[4].split() == ["2", "2", first.choice, f"{first.confidence:.2f}"]
    assert len(re.findall(r"M\d+ 11v", html)) == 10  # a stroke for each answer
    assert "width:100.0%" in html and words(html).endswith("10 moments rows 2 to 20")


def test_a_backtest_under_way_and_one_that_was_cancelled(tested, stepped, run_dry):
    s = tested(IN_FLIGHT + 8)
    test = s.backtest_start("Up?", choices=["up", "down"], every=1)
    while not test.answered:
        stepped.step()
    done = test.answered
    assert 0 < done < test.total
    shown = words(backtest_html(test))
    assert f"{done} of {test.total} moments" in shown and shown.endswith("under way")
    assert f"width:{100 * done / test.total:.1f}%" in backtest_html(test)
    test.cancel()
    run_dry(stepped)
    assert words(backtest_html(test)).endswith("cancelled") and "| cancelled]" in backtest_text(
        test
    )


def test_a_backtest_that_failed_says_why(tested, stepped, run_dry):
    test = tested(2).backtest_start("Up?", every=50)
    run_dry(stepped)
    assert "failed" in backtest_text(test)
    assert "QuestionError: back-test of session" in words(backtest_html(test))


def test_a_backtest_of_many_different_answers_does_not_name_them(tested, stepped, run_dry):
    test = tested(9).backtest_start("What?", max_tokens=2, every=1)
    run_dry(stepped)
    for number, told in enumerate(test.answers):
        told.text = f"answer {number} " + "x" * 60
    shown = words(backtest_html(test))
    assert "9 different answers" in shown and "answer 4" not in shown
    assert max(map(len, backtest_text(test).splitlines())) < 80


def test_a_long_backtest_has_a_short_strip(tested, stepped, run_dry, monkeypatch):
    monkeypatch.setattr("workbench.notebook.backtest_view.SLOTS", 5)
    test = tested(12).backtest_start("Up?", choices=["up", "down"], every=1)
    run_dry(stepped)
    assert len(re.findall(r"M\d+ 11v", backtest_html(test))) == 4  # every third


def test_a_tick_says_whether_it_is_visible(stepped, run_dry):
    s = stepped.open("btc", cells=200)
    tick = s.push("ab")
    assert words(tick_html(tick)) == f"1 row {tick.num_tokens} tokens queued"
    run_dry(stepped)
    assert words(tick_html(tick)) == f"1 row {tick.num_tokens} tokens visible as version 1"
    assert tick_text(tick) == repr(tick)
    lost = s.push("cd")
    s.close()
    assert "failed session &#x27;btc&#x27; is closed" in words(tick_html(lost))


def test_a_stream_says_how_far_it_is(engine):
    s = engine.open("btc")
    feed = s.stream(["one", "two"], progress=False)
    feed.wait(60)
    assert feed_text(feed) == "stream: 2 of 2 rows, done"
    assert words(feed_html(feed)) == "stream 2 of 2 rows done" and "width:100.0%" in feed_html(feed)
    endless = s.stream((f"{n}" for n in iter(int, 1)), rate=1e-3, progress=False)
    assert feed_text(endless) == "stream: 0 rows, running"
    endless.stop()
    stopped = s.stream(["one", "two"], rate=1e-3, progress=False)
    stopped.stop()
    stopped.join(60)
    assert words(feed_html(stopped)) == "stream 0 of 2 rows stopped"
    failed = s.stream(["one", 5], progress=False)
    with pytest.raises(RowError):
        failed.wait(60)
    assert "1 of 2 rows failed" in words(feed_html(failed)) and "list of int" in feed_html(failed)


def test_a_moment_reads_as_people_say_it():
    assert moment_text(wb.row(500)) == words(moment_html(wb.row(500))) == "as of row 500"
    assert moment_text(wb.version(-1)) == "as of 1 version ago"


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
    assert "1 session 200 of 2,048 cells taken 0 answers" in words(engine_html(stepped))
    assert engine_text(stepped) == repr(stepped)
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
    for value, said in [
        (wb.row(5), "as of row 5"),
        (s.push("one"), "1 row"),
        (s.stream(["two"], progress=False), "stream"),
        (s.backtest("Up?", choices=["up", "down"], every=1, end=1, progress=False), "1 moment"),
        (s.flash("Up?"), "Up?"),
        (engine, engine.model_name),
    ]:
        assert said in formatter.format(value)[0][kind]
        # JupyterLab takes what stands between two dollar signs for a formula, save in these.
        assert (kind == "text/html") == ("mathjax_ignore" in formatter.format(value)[0][kind])
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
