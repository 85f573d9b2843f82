import json
import threading
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import workbench as wb
from workbench.bench.__main__ import main
from workbench.bench.peers import Stateless
from workbench.bench.sessions import alone, live, neighbours
from workbench.bench.sessions.alone import _Cache
from workbench.bench.sessions.arrivals import Arrival, Sizes, What, Workload, arrivals
from workbench.bench.sessions.material import prepare, text_of
from workbench.bench.sessions.neighbours import Neighbours
from workbench.bench.sessions.pace import Pace
from workbench.engine.tokens import Tokens
from workbench.errors import WorkbenchError
from workbench.testing import byte_tokenizer

ARRIVALS = "--sessions 6 --seconds 1 --tick 0.3 --context 150 --questions-per-second 8"
LIVE = "--model tiny --dtype float32 --threads 1"
WORKLOAD = Workload(sessions=6, seconds=1, tick=0.3, context=150, questions_per_second=8)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """What a live run writes, at a size that takes a second; and the threads while it ran."""
    out = tmp_path_factory.mktemp("bench") / "sessions.json"
    before, during = threading.active_count(), []
    push = wb.Session.push

    def counting(session, data):
        during.append(threading.active_count())
        return push(session, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wb.Session, "push", counting)
        command = f"sessions {LIVE} {ARRIVALS} --alone --out {out}"
        assert main(command.split()) == 0
    return json.loads(out.read_text()), out, before, during


def test_the_result_says_what_it_was_measured_with(lived):
    result, *_ = lived
    assert result["benchmark"] == "sessions"
    assert result["command"].startswith("python -m workbench.bench sessions --model tiny")
    assert result["versions"]["torch"] == torch.__version__
    assert result["model"] == {"name": "tiny", "dtype": "float32"}
    assert Workload(**result["workload"]) == WORKLOAD
    assert set(result["cost"]) == {"base", "per_token", "per_read"}
    assert min(result["cost"].values()) >= 0 < max(result["cost"].values())


def test_everyone_answers_everything_that_arrived(lived):
    result, *_ = lived
    due = arrivals(WORKLOAD)
    ticks = sum(a.what is What.TICK for a in due)
    assert [system["system"] for system in result["systems"]] == [live.OURS, alone.NAME]
    for system in result["systems"]:
        assert system["unfinished"] == 0
        assert system["lag_ms"]["count"] == ticks
        assert system["ask_ms"]["count"] == system["ttft_ms"]["count"] == len(due) - ticks
        assert 0 < system["ask_ms"]["p50"] <= system["ask_ms"]["max"]
        assert system["ttft_ms"]["max"] <= system["ask_ms"]["max"]
        assert system["flash_age"]["seconds"] == pytest.approx(6 * WORKLOAD.seconds)
        assert 0 < system["utilisation"] <= 1
        assert system["others_cpu"] is None or 0 <= system["others_cpu"] <= 1


def test_everyone_reads_the_same_tokens(lived):
    result, *_ = lived
    sizes = Sizes(**result["sizes"])
    asked = sum(a.what is not What.TICK for a in arrivals(WORKLOAD))
    assert sizes.question == WORKLOAD.question_tokens
    assert len(sizes.accepted) == asked
    assert [abs(context - WORKLOAD.context) < 50 for context in sizes.contexts] == [True] * 6
    for system in result["systems"]:
        assert system["tokens"]["ingest"] == sum(sizes.ticks)
        assert system["tokens"]["question"] == asked * (sizes.question + sizes.more_choices)


def test_sessions_have_no_threads_of_their_own(lived):
    *_, before, during = lived
    assert len(during) > 6
    assert max(during) - before <= 3  # the engine's, the progress bar's, one to spare


def test_the_simulation_of_a_run_stands_beside_it(lived, capsys, tmp_path):
    result, out, *_ = lived
    both = tmp_path / "both.json"
    command = f"sessions --simulate --cost {out} {ARRIVALS} --out {both}"
    assert main(command.split()) == 0
    written = json.loads(both.read_text())
    assert [s["system"] for s in written["systems"]] == [live.OURS, alone.NAME, "simulated"]
    assert written["systems"][:2] == result["systems"]
    assert written["limits"] == result["limits"]
    assert written["cost"] == pytest.approx(result["cost"])
    ours, _, simulated = written["systems"]
    assert simulated["tokens"]["ingest"] == ours["tokens"]["ingest"]
    assert simulated["tokens"]["question"] == ours["tokens"]["question"]
    shown = capsys.readouterr().out
    (lag,) = [line for line in shown.splitlines() if line.startswith("ingest lag")]
    assert live.OURS in lag
    assert shown.count("  simulated  ") >= 6


def test_other_arrivals_are_simulated_with_its_cost_alone(lived, capsys):
    result, out, *_ = lived
    assert main(f"sessions --simulate --cost {out} --seconds 5".split()) == 0
    shown = capsys.readouterr().out
    assert live.OURS not in shown.replace("workbench.bench", "")
    assert "other arrivals" in shown
    assert f"{result['cost']['base'] * 1e3:.2f} ms" in shown


def test_a_run_that_does_not_fit_the_model_is_refused_before_it_begins():
    workload = Workload(sessions=1, seconds=1, tick=0.1, context=40_000)
    options = live.Options(model="tiny", dtype="float32", threads=1)
    with pytest.raises(WorkbenchError, match=r"the model has 32,768 positions; take fewer"):
        live.run(workload, options, "", progress=False)


def test_what_is_sent_late_is_still_sent_and_known_to_be_late():
    pace, sent = Pace(), []
    due = [Arrival(0.0, 0, What.TICK), Arrival(0.01, 0, What.TICK), Arrival(0.2, 0, What.TICK)]

    def send(index, arrival):
        sent.append((index, pace.now >= arrival.at))
        if index == 0:
            time.sleep(0.06)

    pace.send(due, send, 0.25, progress=False)
    assert sent == [(0, True), (1, True), (2, True)]
    assert pace.late_s[1] >= 0.05
    assert pace.now >= 0.25


def test_what_others_use_is_what_is_busy_less_our_own(tmp_path, monkeypatch):
    stat, own = tmp_path / "stat", iter([5.0, 7.0, 8.0])
    monkeypatch.setattr(neighbours, "STAT", stat)
    monkeypatch.setattr(neighbours.time, "process_time", lambda: next(own))
    monkeypatch.setattr(neighbours.os, "sysconf", lambda name: 100)
    stat.write_text("cpu  100 0 0 900 0 0 0 0 0 0\ncpu0 1 2 3\n")
    made = Neighbours()
    # 19 seconds in all, of which 12 idle or waiting for a disk; 2 of the other 7 are our own.
    stat.write_text("cpu  500 200 50 2000 100 0 25 25 77 77\ncpu0 1 2 3\n")
    assert made.share() == pytest.approx((7 - 2) / 19)
    stat.unlink()
    assert made.share() is None


def test_material_is_the_same_again_and_each_session_has_its_own():
    tokens = Tokens(byte_tokenizer(), [])
    workload = Workload(
        sessions=3, seconds=2, tokens_per_tick=120, context=300, question_tokens=44, flash=2
    )
    due = arrivals(workload)
    made = prepare(workload, due, tokens)
    assert made == prepare(workload, due, tokens)
    assert len({text_of(rows) for rows in made.fills}) == 3
    assert {len(rows) for rows in made.ticks} == {3}  # bars of about 40 bytes
    assert made.tick_tokens == [len(tokens.data(text_of(rows))) for rows in made.ticks]
    lengths = list(made.contexts)
    ticks = [arrival for arrival in due if arrival.what is What.TICK]
    for arrival, num in zip(ticks, made.tick_tokens, strict=True):
        lengths[arrival.session] += num
    assert made.longest == max(lengths)
    assert len(tokens.question(made.question)) == 44
    assert len({made.question, *made.flash}) == 3


@pytest.mark.parametrize("choices", [([5], [9], [11]), ([5, 6], [9, 3], [11, 2])])
def test_the_plain_loop_chooses_as_plain_transformers_does(choices):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, vocab_size=64, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    cache, plain = _Cache(model), Stateless(model)
    context = torch.randint(0, 64, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    chosen = set()
    for at in range(10, 60, 10):
        cache.advance(context[at - 10 : at])
        scores = [sum(plain.score(context[:at], [7, 8], ids)) for ids in choices]
        chosen.add(cache.choose([7, 8], choices))
        assert scores.index(max(scores)) == cache.choose([7, 8], choices)
        assert cache.length == at
    assert len(chosen) > 1
