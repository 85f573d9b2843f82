import math
import threading

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.answer import Answer
from workbench.errors import Cancelled, WorkbenchError
from workbench.events import Answered, FlashAnswered
from workbench.notebook import export
from workbench.notebook.latency import MOST_DRAWN, NOTHING_ASKED, LatencyPart, export_latency
from workbench.notebook.points import KEPT_POINTS, Point, PointLog, latency_frame, thinned

POINTS = [Point(float(i), "btc", "ask", 100 * i, 2.0, 5.0) for i in range(1, 4)]


def answered(context=10, *, session="btc", time=1.0, **options):
    options = {"from_flash": False, "choices": (), "question": "Up?"} | options
    return Answered(session=session, position=context, context=context, time=time, queue_ms=0.0,
                    ttft_ms=2.0, total_ms=3.0, num_tokens=4, **options)  # fmt: skip


def evaluated(time=1.0):
    return FlashAnswered(session="btc", flash="f", text="up", confidence=0.5, version=1,
                         position=20, total_ms=4.0, changed=False, time=time)  # fmt: skip


def test_events_become_points_of_five_kinds():
    log = PointLog()
    log.take(answered(time=1.0))
    log.take(answered(time=2.0, choices=("up", "down")))
    log.take(answered(time=3.0, from_flash=True, choices=("up", "down")))
    log.take(evaluated(time=4.0))
    log.take(answered(30, time=5.0, stateless=True, session="eth"))
    assert [(p.kind, p.context) for p in log.points()] == [
        ("ask", 10), ("choice", 10), ("flash hit", 10), ("flash", 20), ("stateless", 30),
    ]  # fmt: skip
    assert [p.kind for p in log.points("eth")] == ["stateless"]
    assert log.seen == 5 and log.newest.time == 3.0, "a stateless answer is no session's own"


def test_asks_are_kept_however_many_evaluations_come():
    log = PointLog()
    log.take(answered(time=0.0))
    for i in range(KEPT_POINTS + 50):
        log.take(evaluated(time=1.0 + i))
    points = log.points()
    assert len(points) == KEPT_POINTS + 1 and points[0].kind == "ask"
    assert points[1].time == 51.0


points = st.builds(
    Point, st.floats(0, 1e6), st.just("s"), st.sampled_from(["ask", "flash", "stateless"]),
    st.integers(0, 10_000), st.just(1.0), st.floats(0.01, 1e4),
)  # fmt: skip


@given(st.lists(points, min_size=1, max_size=200), st.integers(4, 40))
def test_thinned_points_keep_the_extremes_and_the_newest(kept, most):
    few = thinned(kept, most)
    assert [p.time for p in few] == sorted(p.time for p in few)
    for kind in {p.kind for p in kept}:
        before = [p for p in kept if p.kind == kind]
        after = [p for p in few if p.kind == kind]
        assert set(after) <= set(before) and len(after) <= max(most, 4)
        for extreme in (min, max):
            assert extreme(p.total_ms for p in after) == extreme(p.total_ms for p in before)
        assert max(p.time for p in after) == max(p.time for p in before)
        if len(before) <= most:
            assert len(after) == len(before)


def test_the_floor_is_in_the_frame_of_an_engine(engine):
    frame = latency_frame(POINTS, engine)
    assert frame["floor_ms"].to_list() == [engine.floor_ms(p.context) for p in POINTS]
    assert frame["floor_ms"].is_sorted() and frame["floor_ms"][0] > 0
    assert latency_frame(POINTS)["floor_ms"].to_list() == [None] * 3
    assert latency_frame([]).columns == frame.columns


@pytest.fixture
def part():
    part = LatencyPart()
    yield part
    for widget in (part.panel, part.figure, *part.widgets):
        widget.close()


class Beats:
    """Draws a part as the pump does, a second apart."""

    def __init__(self, part, engine):
        self.part, self.engine, self.now = part, engine, 1e9

    def __call__(self, **action):
        if action:
            self.part.panel._put(None, action, [])
        self.now += 1.0
        self.part.act(self.engine)
        self.part.draw(self.engine, self.now)
        return self.part.panel.state


@pytest.fixture
def beat(part, engine):
    engine.events.subscribe(part.take)
    return Beats(part, engine)


def drawn(part):
    return {t.name: list(zip(t.x.tolist(), t.y.tolist(), strict=True)) for t in part.figure.data}


def test_a_question_is_measured_again_without_its_session(part, engine, beat, eventually):
    s = engine.open("btc", cells=400)
    s.push("one two").wait(60)
    assert beat()["cost"] == NOTHING_ASKED
    answer = s.ask("Up?", max_tokens=3)
    eventually(lambda: f"{answer.position:,} tokens of btc" in beat()["cost"])
    assert beat(action="measure")["measuring"] or part._note.startswith("stateless")
    eventually(lambda: beat()["note"].startswith("stateless: "))
    state = beat()
    assert not state["measuring"] and not state["failed"]
    assert "btc itself took" in state["note"]
    assert eventually(lambda: drawn(part)["stateless, re-reads all"] or not beat())
    [(context, total)] = drawn(part)["stateless, re-reads all"]
    assert context == answer.position and total > 0
    assert [p.kind for p in part.log.points()] == ["ask", "stateless"]
    assert eventually(lambda: beat() and drawn(part)["floor, one forward"])


def test_measuring_can_be_stopped(part, engine, beat, monkeypatch):
    s = engine.open("btc", cells=400)
    s.push("one two").wait(60)
    cancelled = []

    def start(self, question, **options):
        answer = Answer(question, "btc")
        answer.context = 7
        answer.asks_with([], lambda: cancelled.append(answer))
        return answer

    monkeypatch.setattr(type(s), "ask_stateless_start", start)
    part.take(answered())
    assert not beat(action="stop")["measuring"]
    state = beat(action="measure")
    assert state["measuring"] and "flash queries wait" in state["note"]
    assert beat(action="stop")["measuring"] and len(cancelled) == 1
    cancelled[0].end("cancelled", Cancelled("stopped"))
    state = beat()
    assert not state["measuring"] and not state["failed"]
    assert state["note"] == "stopped; nothing was measured"


def test_a_closed_question_is_measured_with_its_own_choices(
    part, engine, beat, monkeypatch
):
    s = engine.open("btc", cells=400)
    s.flash("Up?", choices=["up", "down"])
    asked = []

    def start(self, question, **options):
        asked.append((question, options))
        answer = Answer(question, "btc")
        answer.end("stop")
        return answer

    monkeypatch.setattr(type(s), "ask_stateless_start", start)
    part.take(answered(choices=("up", "down"), from_flash=True))
    beat(action="measure")
    part.take(answered(choices=("yes", "no"), question="Other?"))
    beat(action="measure")
    part.take(answered(question="Open?"))
    beat(action="measure")
    assert asked == [
        ("Up?", {"choices": ("up", "down"), "max_tokens": 4}),
        ("Other?", {"choices": ("yes", "no"), "max_tokens": 4}),
        ("Open?", {"choices": None, "max_tokens": 4}),
    ]


def test_what_cannot_be_measured_is_said_in_one_line(part, engine, beat, monkeypatch, eventually):
    state = beat(action="measure")
    assert state["note"] == NOTHING_ASKED and state["failed"]
    s = engine.open("btc", cells=1_500)
    s.push(["word " * 60] * 4).wait(60)
    s.ask("Up?", max_tokens=2)
    eventually(lambda: part.log.newest)
    state = beat()
    assert not state["note"] and not state["failed"], "it was another matter"
    beat(action="measure")
    eventually(lambda: "cells" in beat()["note"])  # more than is kept for questions
    state = beat()
    assert state["failed"] and not state["measuring"] and "\n" not in state["note"]
    s.close()
    state = beat(action="measure")
    assert state["note"] == NOTHING_ASKED and state["failed"]


def test_the_buttons_write_files_beside_the_notebook(part, engine, beat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for point in POINTS:
        part.take(answered(point.context, time=point.time))
    state = beat(action="export", suffix="parquet")
    [path] = tmp_path.glob("latency-*.parquet")
    assert state["note"] == f"wrote {path}" and not state["failed"]
    assert pl.read_parquet(path)["context"].to_list() == [100, 200, 300]
    beat(action="export", suffix="html")
    [page] = tmp_path.glob("latency-*.html")
    assert "ask, whole answer" in page.read_text()
    beat(action="export", suffix="exe")
    assert len(list(tmp_path.iterdir())) == 2

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    state = beat(action="export", suffix="parquet")
    assert state["failed"] and "No space left" in state["note"]


def test_scale_and_session_are_chosen_in_the_browser(part, engine, beat):
    engine.open("btc", cells=100)
    engine.open("eth", cells=100)
    part.take(answered(100))
    part.take(answered(200, session="eth"))
    state = beat()
    assert state["log"] and part.figure.layout.yaxis.type == "log"
    assert state["sessions"] == ["btc", "eth"] and state["session"] == ""
    assert [x for x, _ in drawn(part)["ask, first token"]] == [100, 200]
    state = beat(action="session", name="eth")
    assert state["session"] == "eth"
    assert [x for x, _ in drawn(part)["ask, first token"]] == [200]
    assert part.frame()["session"].to_list() == ["eth"]
    state = beat(action="scale", log=False)
    assert not state["log"] and part.figure.layout.yaxis.type == "linear"
    engine.session("eth").close()
    assert beat()["session"] == "", "a session that is gone is not waited for"
    assert len(drawn(part)["ask, first token"]) == 2


def test_answers_from_before_are_shown_once(part, engine, beat, eventually):
    s = engine.open("btc", cells=400)
    query = s.flash("Up?", choices=["up", "down"])
    s.push("one").wait(60)
    query.wait(60)
    late = LatencyPart()
    try:
        late.draw(engine, 1e9)
        late.draw(engine, 1e9 + 1)
        assert [p.kind for p in late.log.points()] == ["flash"] * len(query.answers)
    finally:
        for widget in (late.panel, late.figure, *late.widgets):
            widget.close()


def test_a_redraw_is_few_small_messages(part, engine, beat, monkeypatch):
    for i in range(2_000):
        for event in (answered(10 * i, time=i), evaluated(time=i),
                      answered(7 * i, time=i, choices=("up", "down")),
                      answered(9 * i, time=i, stateless=True)):  # fmt: skip
            part.take(event)
    assert engine.bandwidth > 0  # measured by now, so that no later line is news
    sizes = []

    def send(self, content, buffers=None, **_):
        sizes.append(len(str(content)) + sum(len(bytes(b)) for b in buffers or []))

    def send_state(self, key=None):
        keys = [key] if isinstance(key, str) else list(key or self.keys)
        for name in keys:
            sizes.append(_size(getattr(self, name)))

    monkeypatch.setattr(type(part.figure), "send_state", send_state)
    monkeypatch.setattr(type(part.figure), "send", send)
    beat()
    assert 1 <= len(sizes) <= 4 and 5_000 < sum(sizes) < 50_000
    assert all(len(trace.x) <= MOST_DRAWN for trace in part.figure.data)
    sizes.clear()
    beat()
    assert sizes == [], "nothing new, nothing sent"


def _size(value):
    """Roughly what it weighs on the wire."""
    if hasattr(value, "nbytes"):
        return value.nbytes
    if isinstance(value, dict):
        return sum(len(str(k)) + _size(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(str(value))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".html"])
def test_export_goes_by_the_suffix(tmp_path, suffix):
    frame = latency_frame(POINTS)
    path = export_latency(frame, tmp_path / f"latency{suffix}")
    if suffix == ".html":
        assert "tokens of context" in path.read_text()
    else:
        read = pl.read_parquet if suffix == ".parquet" else pl.read_csv
        assert read(path)["total_ms"].to_list() == [5.0] * 3


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(
        WorkbenchError, match=r"ends in \.png, \.html, \.parquet or \.csv, got '\.x'"
    ):
        export_latency(latency_frame(POINTS), tmp_path / "latency.x")
    with pytest.raises(WorkbenchError, match=r"expected \.png or \.html, got ''"):
        export.export_figure(None, tmp_path / "latency")
    assert list(tmp_path.iterdir()) == []


def test_a_png_without_a_browser_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "chromium_path", lambda: None)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(WorkbenchError, match=r"neither is installed; install one, use the camera"):
        export_latency(latency_frame(POINTS), tmp_path / "latency.png")
    assert list(tmp_path.iterdir()) == []


def test_what_kaleido_says_is_passed_on(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no Chrome here\nand a long story")

    monkeypatch.setattr(export, "chromium_path", lambda: None)
    monkeypatch.setattr(export, "find_spec", lambda name: name == "kaleido")
    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", broken)
    with pytest.raises(WorkbenchError, match=r"kaleido failed \(no Chrome here\); install"):
        export_latency(latency_frame(POINTS), tmp_path / "latency.png")


def test_a_stepped_engine_is_never_waited_for(part, stepped):
    stepped.open("btc", cells=100)
    part.take(answered())
    done = threading.Event()

    def beats():
        part.act(stepped)
        part.draw(stepped, 1e9)
        part.draw(stepped, 1e9 + 1)
        done.set()

    threading.Thread(target=beats, daemon=True).start()
    assert done.wait(30)
    assert math.isnan(Point.of(evaluated()).ttft_ms)


@pytest.mark.browser
@pytest.mark.skipif(
    export.chromium_path() is None or export.find_spec("playwright") is None,
    reason="needs chromium and playwright",
)
def test_a_png_is_drawn_without_any_network(tmp_path):
    path = export_latency(latency_frame(POINTS), tmp_path / "latency.png")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert (width, height) == (export.WIDTH * export.SCALE, 480 * export.SCALE)
    # white paper and nothing else would be a few kilobytes
    assert len(data) > 15_000
