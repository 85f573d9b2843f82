import json
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.events import Planned, StepShare
from workbench.notebook.timeline import (
    KEPT_STEPS,
    MOST_BARS,
    PHASES,
    REFRESH_S,
    WINDOWS,
    Bar,
    StepLog,
    StepTimelinePart,
    merged,
    shares_frame,
    steps_frame,
    timeline_state,
)

START = 1_700_000_000.0


def step(number, began, seconds, *, session="btc", **tokens):
    tokens = dict.fromkeys(PHASES, 0) | tokens
    shares = tuple(StepShare(session, phase, n) for phase, n in tokens.items() if n)
    return Planned(step=number, time=began + seconds, duration_s=seconds, num_slices=len(shares),
                   predicted_s=0.01, ingest_limit=256, limited_by="idle", shares=shares,
                   **tokens)  # fmt: skip


@st.composite
def runs(draw):
    """Steps one after another, over up to two minutes."""
    events, now = [], START
    scale = draw(st.sampled_from([0.001, 0.01, 0.3]))
    for number in range(1, draw(st.integers(1, 250)) + 1):
        now += draw(st.sampled_from([0.0, 0.0, scale, 3 * scale]))
        seconds = scale * draw(st.integers(1, 8))
        phase = draw(st.sampled_from(PHASES))
        events.append(step(number, now, seconds, session=draw(st.sampled_from("ab")),
                           **{phase: draw(st.integers(1, 50))}))  # fmt: skip
        now += seconds
    return events


def totals(bars):
    return (
        sum(bar.steps for bar in bars),
        [sum(bar.tokens[at] for bar in bars) for at in range(len(PHASES))],
        pytest.approx(math.fsum(bar.busy_s for bar in bars)),
        sum(sum(bar.shares.values()) for bar in bars),
    )


@given(runs(), st.sampled_from([0, 5, 25, 600]))
def test_merging_keeps_tokens_and_busy_time(events, every):
    alone = [Bar.of(event) for event in events]
    bars = merged(alone, every)
    assert totals(bars) == totals(alone)
    assert len(bars) == len(alone) if not every else len(bars) <= len(alone)
    assert [bar.first for bar in bars] == sorted(bar.first for bar in bars)
    assert all(bar.busy_s <= bar.ended - bar.began + 1e-5 for bar in bars)


@given(runs(), st.floats(0, 5))
def test_the_picture_has_every_step_of_the_last_minute_once(events, later):
    log = StepLog()
    for event in events:
        log.take(event)
    now = events[-1].time + later
    bars = log.bars(now)
    recent = [Bar.of(e) for e in events if e.time - e.duration_s >= now - WINDOWS[-1] + 0.15]
    older = sum(bar.steps for bar in bars) - len(recent)
    assert older >= 0, "a step is missing"
    assert older <= sum(e.time - e.duration_s >= now - WINDOWS[-1] - 0.15 for e in events)
    if older == 0:
        assert totals(bars) == totals(recent)
    numbers = [n for bar in bars for n in range(bar.first, bar.first + bar.steps)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    assert len(bars) <= 3 * MOST_BARS + 20


def test_a_thousand_steps_a_second_stay_few_bars_and_little_memory():
    log = StepLog()
    for number in range(1, 90_001):
        log.take(step(number, START + number / 1000, 0.0009, ingest=200, decode=3))
    now = START + 90.001
    bars = log.bars(now)
    assert len(bars) <= 300
    assert sum(bar.steps for bar in bars) == pytest.approx(60_000, abs=700)
    assert len(log.events) == KEPT_STEPS
    assert sum(map(len, log._kept.values())) < 6_000
    assert len(json.dumps(timeline_state(bars, now, START))) < 50_000
    # the newest are the finest
    assert bars[-2].ended - bars[-2].began < 0.03 < 0.5 < bars[1].ended - bars[1].began


def test_few_steps_are_shown_one_by_one():
    log = StepLog()
    for number in range(1, 41):
        log.take(step(number, START + number / 10, 0.05, question=8))
    bars = log.bars(START + 4.1)
    assert [bar.steps for bar in bars] == [1] * 40
    assert [bar.first for bar in bars] == list(range(1, 41))


def test_the_frames_have_a_row_per_step_and_per_share():
    events = [
        step(1, START, 0.02, ingest=30, decode=2),
        step(2, START + 0.5, 0.01, session="", question=9),
        "no step",
    ]
    frame = steps_frame(events)
    assert frame.columns == [
        "step", "began", "duration_ms", *PHASES, "predicted_ms", "ingest_limit", "limited_by",
    ]  # fmt: skip
    assert frame.schema["began"] == pl.Datetime("us")
    assert frame["began"].dt.epoch("us").to_list() == [int(START * 1e6), int(START * 1e6) + 500_000]
    assert frame["duration_ms"].to_list() == pytest.approx([20, 10])
    assert frame.select(PHASES).rows() == [(2, 0, 30, 0, 0), (0, 9, 0, 0, 0)]
    assert shares_frame(events).rows() == [
        (1, "btc", "decode", 2), (1, "btc", "ingest", 30), (2, "", "question", 9),
    ]  # fmt: skip
    assert steps_frame([]).height == shares_frame([]).height == 0


def test_what_is_sent_says_whose_tokens_they_were():
    bar = Bar.of(step(7, START + 1, 0.5, ingest=30, decode=2))
    bar.add(Bar.of(step(8, START + 2, 0.25, session="", question=9)))
    state = timeline_state([bar], START + 3, START)
    assert state["now"] == 3000 and state["names"] == ["btc", ""]
    assert state["bars"] == [
        [1000, 1250, 750, 2, 7, [2, 9, 30, 0, 0], 20, 256, "idle", [[0, 32], [1, 9]], 2]
    ]


@pytest.fixture
def shown():
    part = StepTimelinePart()
    yield part
    part.panel.close()


def test_the_part_sends_four_times_a_second_and_nothing_without_steps(shown):
    sent = []
    shown.panel.observe(lambda change: sent.append(change["new"]), "state")
    for beat in range(60):
        shown.take(step(beat + 1, START + beat / 30, 0.01, flash=3))
        shown.draw(None, START + beat / 30)
    assert len(sent) <= 2 / REFRESH_S + 1
    shown.draw(None, START + 3)
    count = len(sent)
    shown.draw(None, START + 4)
    assert len(sent) == count and len(shown.frame) == 60


def test_it_shows_what_a_real_engine_did(shown, stepped, run_dry):
    events = []
    stepped.events.subscribe(events.append)
    stepped.events.subscribe(shown.take)
    s = stepped.open("btc", cells=400)
    s.push(["one", "two"])
    run_dry(stepped)
    answer = s.ask_start("Up?", max_tokens=3)
    run_dry(stepped)
    assert answer.done
    shown.draw(stepped, events[-1].time + 0.01)
    frame = steps_frame(events)
    assert frame.height == stepped.num_steps == sum(bar[3] for bar in shown.panel.state["bars"])
    sums = frame.select(pl.col(PHASES).sum()).row(0)
    assert sums[2] >= s.position and sums[1] > 0
    drawn = [bar[5] for bar in shown.panel.state["bars"]]
    assert tuple(map(sum, zip(*drawn, strict=True))) == sums
    shares = shares_frame(events).group_by("phase").agg(pl.sum("tokens"))
    assert dict(shares.rows()) == {p: n for p, n in zip(PHASES, sums, strict=True) if n}
