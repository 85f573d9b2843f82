"""The mix's schedule and clock, requests that are batched, and sums over rounds and runs."""

import dataclasses
import importlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.bench.contenders import PROMPT
from workbench.bench.race import mix, plan, report, tables_more
from workbench.bench.race.entry import Entry
from workbench.bench.race.equality import Judge, agreed, compared
from workbench.bench.race.material import make_material
from workbench.bench.race.options import Options
from workbench.bench.race.peers.timetable import BAR, QUESTION, Timetable
from workbench.bench.race.process import PeerFailed
from workbench.bench.race.schedule import Due, Schedule, rehearsal, schedule
from workbench.tape import weights_path

OPTIONS = Options(mix_seconds=20.0, mix_bars=2.0, mix_asks=0.8, mix_context=64)


@pytest.fixture(scope="module")
def material():
    return make_material(weights_path(), (128,), 0, questions=5)


def test_a_session_is_the_same_however_many_there_are(material):
    few, many = (schedule(material, sessions, OPTIONS) for sessions in (2, 6))
    assert few.contexts == many.contexts[:2]
    for session in range(2):
        bars = [[d for d in s.events if (d.kind, d.session) == (BAR, session)] for s in (few, many)]
        assert bars[0] == bars[1] and bars[0]
    assert schedule(material, 6, OPTIONS) == many
    assert schedule(material, 6, dataclasses.replace(OPTIONS, seed=1)).events != many.events


def test_no_run_helps_the_next_by_what_it_left_in_a_cache(material):
    one, other = (schedule(material, 6, OPTIONS, run) for run in (0, 1))
    assert [(d.at, d.session, d.kind) for d in one.events] == [
        (d.at, d.session, d.kind) for d in other.events
    ]
    rehearsed = rehearsal(material, 6, OPTIONS, attempt=1).contexts
    contexts = [*rehearsed, *one.contexts, *other.contexts]
    head = len(material.tokens.head(PROMPT))
    assert len({tuple(ids[: head + 24]) for ids in contexts}) == len(contexts)


def test_bars_and_questions_come_as_often_as_asked(material):
    found = schedule(material, 32, OPTIONS)
    bars = [due for due in found.events if due.kind == BAR]
    asked = [due for due in found.events if due.kind == QUESTION]
    assert len(asked) == 25
    # 32 sessions for 20 s, one bar every 2 s: 320, give or take three deviations.
    assert abs(len(bars) - 320) < 3 * 320**0.5
    times = [due.at for due in found.events]
    assert times == sorted(times) and times[0] >= 0 and times[-1] < 20
    assert {len(due.ids) for due in asked} == {16} and len({due.session for due in asked}) > 8


def by_hand():
    """Two sessions; the question to the first one comes between its second bar and its third."""
    events = [
        Due(0.0, 0, BAR, [10, 11]), Due(0.1, 1, BAR, [90]), Due(0.2, 0, BAR, [12]),
        Due(0.3, 0, QUESTION, [7, 8]), Due(0.4, 0, BAR, [13, 14]),
    ]  # fmt: skip
    return Schedule([[1, 2, 3], [4]], events, 0.5)


def test_a_question_must_see_the_bars_of_its_session_that_were_due_before():
    planned = by_hand()
    assert planned.least(3) == 3 + 2 + 1
    assert planned.read(0, 6) == [1, 2, 3, 10, 11, 12]
    assert planned.read(0, 8) == [1, 2, 3, 10, 11, 12, 13, 14]
    assert planned.read(0, 7) is None  # the middle of a bar
    assert planned.longest == 8 + 2


def test_a_rehearsal_has_two_bars_and_then_two_questions_for_each_session(material):
    planned = rehearsal(material, 3, OPTIONS)
    assert [due.kind for due in planned.events] == [BAR] * 6 + [QUESTION] * 6
    bars, asked = planned.events[:6], planned.events[6:]
    assert {due.at for due in bars} == {0.0} and min(due.at for due in asked) > 0
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert first.session == second.session and first.ids != second.ids
    other = rehearsal(material, 3, OPTIONS, attempt=1)
    assert rehearsal(material, 3, OPTIONS).contexts == planned.contexts
    assert not any(ids in planned.contexts for ids in other.contexts)


def test_questions_differ_from_their_first_words_on_and_are_equally_long(material):
    assert {len(ids) for ids in material.questions} == {16}
    assert len({tuple(ids[:3]) for ids in material.questions}) == 5
    assert len(material.questions_words) == 5


def checked(difference, margin=0.0):
    return {
        "max_difference": difference, "bound": 0.3, "agrees": difference <= 0.3,
        "disagreements": [{"margin": margin}] if margin else [],
    }  # fmt: skip


def test_a_comparison_that_is_off_by_little_is_made_again_once():
    right, off = checked(0.1), checked(0.5)
    outcomes = iter([[right, off], [right, right]])
    attempts = []
    checks = compared(lambda attempt: attempts.append(attempt) or next(outcomes))
    assert attempts == [0, 1]
    assert agreed(checks)
    assert [check.get("made_again", False) for check in checks] == [True, True, False, False]
    assert compared(lambda _: [right]) == [right]
    assert not agreed(compared(lambda _: [off]))


@pytest.mark.parametrize("far", [checked(0.7), checked(0.5, margin=0.7)])
def test_a_comparison_that_is_off_by_more_than_rounding_is_not_made_again(far):
    outcomes = iter([[far]])
    assert not agreed(compared(lambda _: next(outcomes)))


def timetable(planned, **more):
    command = {"tokens": 2, "scored": False, "grace": 0.0} | planned.as_sent() | more
    table = Timetable(command)
    table.begin()
    return table


def test_latencies_count_from_when_something_was_due_not_from_when_it_was_taken():
    table = timetable(by_hand(), grace=1.0)
    while not table.take():
        table.wait()
    time.sleep(0.45)  # everything else becomes due meanwhile
    late = table.take()
    assert table.sent and len(late) == 4
    for event in table.events:
        if event.is_bar:
            table.visible(event)
    asked = table.events[3]
    table.sees(asked, 6)
    assert not table.answered(asked, [5]) and not table.over
    time.sleep(0.02)
    assert table.answered(asked, [6]) and table.over
    found = table.result()["done"]
    assert found[1]["last_ms"] >= 300 and found[4]["last_ms"] < found[1]["last_ms"]
    assert found[3]["last_ms"] - found[3]["first_ms"] >= 20
    assert found[3]["ids"] == [5, 6] and found[3]["position"] == 6


def test_nobody_waits_longer_than_the_grace_and_the_rest_is_unfinished():
    table = timetable(by_hand(), grace=0.1)
    while not table.over:
        for event in table.take():
            if event.is_bar:
                table.keep(event)
        table.wait()
    result = table.result()
    assert 0.6 <= result["ended_s"] < 1.2
    assert result["done"][3]["last_ms"] is None and result["done"][3]["first_ms"] is None
    table.answered(table.events[3], [1, 2])  # too late
    assert table.result()["done"][3]["last_ms"] is None


def test_processor_seconds_are_those_of_the_window():
    before = sum(os.times()[:2])
    table = timetable(dataclasses.replace(by_hand(), events=[], seconds=0.4))
    while table.now < 0.4:  # keeps a processor busy, as far as others let it
        pass
    busy = table.result()["busy"]
    assert table.over and 0 < 0.4 * busy <= sum(os.times()[:2]) - before


@pytest.fixture
def by_request(monkeypatch):
    """The module as peers import it: with its folder on the path."""
    monkeypatch.syspath_prepend(str(Path(report.__file__).parent / "peers"))
    import by_request

    yield by_request
    for name in ("by_request", "wire", "timetable", "on_vllm", "on_llamacpp", "gguf_file"):
        sys.modules.pop(name, None)


def engine(by_request):
    """An engine that gives every request a token per step: how long its prompt is."""

    class Fake(by_request.RequestPeer):
        def __init__(self):
            self.left, self.steps, self.prompts = {}, 0, []

        def submit(self, ids, question=None):
            self.prompts.append(list(ids))
            self.left[len(self.prompts)] = [len(ids), 1 if question is None else question.tokens]
            return len(self.prompts)

        def step(self):
            self.steps += 1
            for key, (length, tokens) in list(self.left.items()):
                self.left[key][1] -= 1
                if tokens == 1:
                    del self.left[key]
                yield by_request.Piece(key, [length], [-0.5])

        def cancel(self, keys):
            for key in keys:
                self.left.pop(key)

    return Fake()


def test_standing_questions_are_stepped_together(by_request):
    peer = engine(by_request)
    peer.context = [1, 2, 3]
    questions = [by_request.Question([n], 4, None, False) for n in range(5)]
    for mode, steps in (("warm", 1 + 4), ("prefix", 4)):
        peer.begin(mode, 3, 99)
        peer.watch(mode, questions)
        before = peer.steps
        found = peer.refresh(mode, [8, 9])
        assert peer.steps - before == steps
        assert [reply.ids for reply in found.replies] == [[6] * 4] * 5
        assert (found.read_at is not None) == (mode == "warm")
        assert peer.prompts[-1] == [1, 2, 3, 8, 9, 4]


@pytest.mark.parametrize("mode", ["warm", "prefix"])
def test_a_question_by_request_sees_all_that_was_due(by_request, mode):
    peer = engine(by_request)
    planned = by_hand()
    table = by_request.Timetable({"tokens": 2, "scored": False, "grace": 1.0} | planned.as_sent())
    peer.mix(mode, table)
    done = table.result()["done"]
    assert [1, 2, 3, 10, 11, 12, 7, 8] in peer.prompts
    assert done[3]["position"] == planned.least(3) and done[3]["ids"] == [8, 8]
    bars = [done[index] for index in (0, 1, 2, 4)]
    assert all(bar["kept"] == (mode == "prefix") for bar in bars)
    assert all((bar["last_ms"] is None) == (mode == "prefix") for bar in bars)
    assert not peer.left


@pytest.fixture
def llamacpp(by_request, monkeypatch):
    """llama.cpp's script over a cache of sequences; each token's next is its sequence's length."""
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "gguf_file", SimpleNamespace(write_gguf=None))
    on_llamacpp = importlib.import_module("on_llamacpp")

    class Cached(on_llamacpp.LlamaCpp):
        def __init__(self):
            self._longest, self.calls = 64, []

        def _open(self, cells, sequences, *, shared):
            self.held = [[] for _ in range(sequences)]
            assert not shared and cells >= 64 * sequences

        def _decode(self, tokens):
            self.calls.append(tokens)
            found = []
            for token in tokens:
                (sequence,) = token.sequences
                assert token.position == len(self.held[sequence])
                self.held[sequence].append(token.id)
                if token.wanted:
                    found.append(np.eye(99)[len(self.held[sequence])])
            return found

        def _remove(self, sequence, start):
            del self.held[sequence][start:]

    return Cached()


@pytest.mark.parametrize("mode", ["warm", "prefix"])
def test_llamacpp_answers_on_a_sessions_own_sequence_and_cuts_it_back(by_request, llamacpp, mode):
    planned = by_hand()
    again = Due(0.31, 0, QUESTION, [9])  # while the first question is answered, or just after
    planned = dataclasses.replace(planned, events=[*planned.events[:4], again, planned.events[4]])
    table = by_request.Timetable({"tokens": 3, "scored": False, "grace": 1.0} | planned.as_sent())
    llamacpp.mix(mode, table)
    done = table.result()["done"]
    for index, asked in ((3, 2), (4, 1)):
        seen = done[index]["position"]
        assert seen == planned.least(index)
        assert done[index]["ids"] == [seen + asked + n for n in range(3)]
    assert [bar["kept"] for bar in (done[0], done[1], done[5])] == [mode == "prefix"] * 3
    # What was asked is gone; bars that nobody asked about were read, or not.
    last = [[13, 14], [90]] if mode == "warm" else [[], []]
    assert llamacpp.held == [[1, 2, 3, 10, 11, 12, *last[0]], [4, *last[1]]]


def test_plain_transformers_answers_before_it_reads_what_nobody_asked_about(monkeypatch, material):
    monkeypatch.syspath_prepend(str(Path(report.__file__).parent / "peers"))
    on_transformers = importlib.import_module("on_transformers")
    read = []

    class Cached(on_transformers.Transformers):
        def __init__(self):
            self._model = SimpleNamespace(config=None)

        def _take(self, cache, ids):
            read.append(list(ids))

        def _answer(self, cache, ids, question):
            read.append("question")
            return on_transformers.Reply([1, 2], None)

    class Cache:
        def __init__(self, config):
            pass

        def crop(self, tokens):
            assert tokens == -3

    monkeypatch.setattr(on_transformers, "DynamicCache", Cache)
    planned = by_hand()
    at_once = [dataclasses.replace(due, at=0.0) for due in planned.events]
    table = on_transformers.Timetable(
        {"tokens": 2, "scored": False, "grace": 1.0}
        | dataclasses.replace(planned, events=at_once).as_sent()
    )
    Cached().mix("warm", table)
    # Contexts; then the question with all its session's bars in one forward; then the rest.
    assert read == [[1, 2, 3], [4], [10, 11, 12, 13, 14], "question", [90]]
    assert table.result()["done"][3]["position"] == 8
    for name in ("on_transformers", "wire", "timetable"):
        sys.modules.pop(name, None)


def test_a_system_that_cannot_be_counted_leaves_the_others_of_its_process(monkeypatch):
    systems = (plan.System("odd", "odd", "arrival", "", mix="so"),
               plan.System("even", "even", "arrival", "", mix="so"))  # fmt: skip
    process = plan.Process("p", "p", "p.py", systems)
    options = dataclasses.replace(OPTIONS, mix=(8, 16))
    course = SimpleNamespace(
        options=options, say=lambda _: None, open=lambda *_, **__: {},
        start=lambda _: SimpleNamespace(close=lambda: None), material=None,
    )  # fmt: skip
    planned = SimpleNamespace(longest=9)
    monkeypatch.setattr(mix, "schedule", lambda *_: planned)

    def rehearse(course, peer, system, attempt):
        if system.name == "odd":
            raise mix.NotCounted("two questions were not answered")
        return [{"agrees": True}]

    order = []

    def run(course, peer, system, sessions, planned):
        order.append((sessions, system.name))
        if system.name == "late":
            raise PeerFailed("it ran out of cells")
        return {"system": system.name, "sessions": sessions}, [{"agrees": True}]

    monkeypatch.setattr(mix, "_rehearse", rehearse)
    monkeypatch.setattr(mix, "_run", run)
    late = plan.Process("l", "l", "l.py", (plan.System("late", "l", "arrival", "", mix="so"),))
    entries = [Entry(course, each, mix.result_of(each)) for each in (process, late)]
    saved = []
    mix.race(course, entries, lambda: saved.append(len(order)))
    found, failed = (entry.result for entry in entries)
    assert found["failed"] is None
    assert [run["sessions"] for run in found["runs"]] == [8, 16]
    assert found["not_counted"] == {"odd": "two questions were not answered"}
    # A peer that fails is out, and the others go on; both have had their turn before the next.
    assert failed["failed"] == "it ran out of cells" and not failed["runs"]
    assert order == [(8, "even"), (8, "late"), (16, "even")] and saved == [2, 3]
    assert all(entry.peer is None for entry in entries)


def test_an_answer_without_its_log_probabilities_is_the_peers_failure():
    judge = Judge(peer=None, bound=0.3, timeout=1.0)
    with pytest.raises(PeerFailed, match="expected 2 log-probabilities, got 1"):
        judge.open_answer({"ids": [1, 2], "logprobs": [-0.1]}, 0, [], None, [])
    with pytest.raises(PeerFailed, match=r"expected chances of \[1, 2\] or one of them, got \[3\]"):
        judge.choice({"chances": None, "ids": [3]}, [1, 2], 0, [], [])
    with pytest.raises(PeerFailed, match=r"or one of them, got \[1.0\]"):
        judge.choice({"chances": [1.0], "ids": [1]}, [1, 2], 0, [], [])


@pytest.mark.parametrize(("odds", "agrees"), [(0.1, True), (0.5, True), (0.7, False)])
def test_a_choice_that_is_only_named_may_be_the_judges_second_by_little(monkeypatch, odds, agrees):
    judge = Judge(peer=None, bound=0.3, timeout=1.0)
    scores = {1: -2.0, 2: -2.0 - odds}
    monkeypatch.setattr(
        Judge, "score", lambda self, length, ids, answer: {"logprobs": [scores[answer[0]]]}
    )
    best = judge.choice({"chances": None, "ids": [1]}, [1, 2], 0, [], [])
    assert best["agrees"] and not best["disagreements"] and best["max_difference"] is None
    other = judge.choice({"chances": None, "ids": [2]}, [1, 2], 0, [], [])
    assert other["agrees"] is agrees
    assert other["disagreements"][0]["margin"] == pytest.approx(odds)


def standing_sample(system, questions, total_ms):
    return {
        "system": system, "context": 100, "position": 100, "questions": questions, "answer": "8",
        "read_ms": 4.0, "total_ms": total_ms,
    }  # fmt: skip


def test_ratios_of_standing_questions_are_to_the_fewest_and_to_ours():
    peers = [
        {"standing": {"samples": [standing_sample("workbench", k, ms)
                                  for k, ms in ((1, 10.0), (16, 18.0), (16, 22.0))]}},
        {"standing": {"samples": [standing_sample("other", 1, 5.0),
                                  standing_sample("other", 16, 60.0)]}},
        {},
    ]  # fmt: skip
    ours, ours16, other, other16 = report._standing(peers)
    assert (ours["over_fewest"], ours["times_ours"]) == (1.0, 1.0)
    assert (ours16["over_fewest"], ours16["samples"]) == (2.0, 2)
    assert other["times_ours"] == 0.5
    assert (other16["over_fewest"], other16["times_ours"]) == (12.0, 3.0)
    shown = tables_more.standing({"standing_cells": [ours, ours16, other, other16]})
    assert shown[-1].splitlines()[-1].split() == ["other", "5.00", "4.00", "0.50", "60", "4.00",
                                                  "12.00", "3.00"]  # fmt: skip


def event(kind, last_ms, *, finished=True):
    first = None if kind == BAR else last_ms / 2
    return {
        "kind": kind, "due_s": 0.0, "first_ms": first, "last_ms": last_ms, "finished": finished,
    }  # fmt: skip


def test_what_is_unfinished_counts_with_its_age():
    events = [
        event(QUESTION, 10.0), event(QUESTION, 20.0), event(QUESTION, 9000.0, finished=False),
        event(BAR, 5.0), event(BAR, 7000.0, finished=False),
    ]  # fmt: skip
    run = {"system": "s", "sessions": 8, "processors": 1.5, "events": events}
    cell = report._mixed(run)
    assert cell["last_ms"]["p50"] == 20.0 and cell["last_ms"]["p99"] > 8000
    assert (cell["unfinished_questions"], cell["unfinished_bars"]) == (1, 1)
    (line,) = [
        line
        for text in tables_more.mix({"mix_cells": [cell], "settings": {"mix": {"seconds": 20.0}}})
        for line in text.splitlines()
        if line.startswith("s ")
    ]
    assert line.split()[-3:] == ["1", "1", "1.50"]


def test_bars_that_wait_for_a_question_have_no_time():
    bar = event(BAR, None)
    run = {"system": "s", "sessions": 8, "processors": 1.0, "events": [event(QUESTION, 1.0), bar]}
    cell = report._mixed(run)
    assert cell["visible_ms"] is None and cell["unfinished_bars"] == 0


def test_vllm_log_probabilities_count_where_they_were_asked_for(by_request):
    """A streaming-input session hands out those of its first chunk with every later one."""
    on_vllm = importlib.import_module("on_vllm")
    peer = object.__new__(on_vllm.VLLM)

    def output(name, token, scores):
        new = SimpleNamespace(token_ids=[token], logprobs=scores)
        return SimpleNamespace(request_id=name, outputs=[new])

    old = [{5: SimpleNamespace(logprob=-0.25)}]
    peer._engine = SimpleNamespace(step=lambda: [output("s0", 9, old), output("r1", 5, old)])
    peer._scored = {"r1"}
    assert list(peer.step()) == [("s0", [9], []), ("r1", [5], [-0.25])]
