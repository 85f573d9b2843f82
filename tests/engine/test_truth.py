"""The engine against plain transformers over the full token log, however it got there.

Bound: both sides compute in float32, in another order of sums. The tiny models' log-probabilities
have a standard deviation near 1.7 and pass through two or three layers of sums of at most 48 terms;
the largest error over all families is 7e-6. 5e-5 leaves room for another machine's kernels, and is
far below what one wrong cell does (`test_one_wrong_cell_would_show`).
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.engine.origin import Origin
from workbench.opening import fork_of
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    FAMILIES,
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)

BOUND = 5e-5
MODELS = {family: tiny_model(family) for family in FAMILIES}

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 2), st.integers(1, 40)),
        st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("choose"), st.integers(0, 2), st.integers(2, 4)),
        st.tuples(st.just("flash"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("step"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("reopen"), st.integers(0, 2), st.integers(60, 200)),
        st.tuples(st.just("fork"), st.integers(0, 2), st.integers(0, 9)),
    ),
    min_size=6,
    max_size=24,
)
WORDS = ["up", "down", "sideways", "no idea"]


def play(engine: wb.Engine, actions: list[tuple[str, int, int]]) -> list[wb.Answer]:
    """Run an interleaving on an engine without a thread; returns every answer that came."""
    sessions = [engine.open(f"begin{i}", prompt=f"prompt {i}", cells=400) for i in range(3)]
    for session in sessions:
        session.push(f"{session.name} begins with some data")
    answers, queries = [], []
    for number, (action, which, size) in enumerate(actions):
        session = sessions[which]
        if action == "push":
            text = "".join(chr(97 + (number * 7 + i * i) % 26) for i in range(size))
            if session.ingest.ticks.accepted_tokens + size + 1 <= session.budget:
                session.push(text)
        elif action == "ask":
            answers.append(session.ask_start(f"what about {number}?", max_tokens=size))
        elif action == "choose":
            answers.append(session.ask_start("which?", choices=WORDS[:size]))
        elif action == "flash":
            queries.append(session.flash(f"standing {number}?", max_tokens=size))
        elif action == "step":
            for _ in range(size):
                engine.step()
                check_books(engine)
        elif action == "fork":
            origin = Origin.of(session.ingest, wb.row(max(0, session.rows - size)))
            spec, columns = fork_of(engine, session, f"f{number}", origin, session.position + 60)
            if engine.admission.room() >= spec.budget:
                sessions[which] = engine.admit(spec, columns, session.prompt, wait=False)
        else:
            session.close()
            poison_free_cells(engine)
            cells = min(size, engine.admission.room())  # forks go on where their parent was
            sessions[which] = engine.open(f"s{number}", prompt=None, cells=cells)
    run_until_idle(engine)
    check_books(engine)
    return answers + [a for q in queries for a in q.answers]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS, tokens=st.sampled_from([5, 17, 64]))
def test_any_interleaving_equals_plain_transformers(family, actions, tokens):
    model = MODELS[family]
    limits = StepLimits(tokens=tokens, target_ms=0, ingest_floor=3, flash_share=4)
    with wb.Engine(model, cells=2048, limits=limits, start=False) as engine:
        poison_free_cells(engine)
        for answer in play(engine, actions):
            assert_recomputes(model[0], answer, BOUND, engine.tokens)
    assert engine.pool.num_free == engine.pool.num_cells


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 8, 13, 300])
def test_any_chunking_of_a_stream_gives_the_same_answer(family, tokens):
    model = MODELS[family]
    with wb.Engine(model, cells=1024, limits=StepLimits(tokens=tokens), start=False) as engine:
        poison_free_cells(engine)
        session = engine.open("s", prompt="watch", cells=400)
        for i in range(6):
            session.push("abcdefgh"[i:] * (i + 1))
        closed = session.ask_start("up or down?", choices=["up", "down", "dunno"])
        free = session.ask_start("what now?", max_tokens=5)
        run_until_idle(engine)
        assert_recomputes(model[0], free, BOUND)
        assert_recomputes(model[0], closed, BOUND, engine.tokens)
        assert free.input_ids[: free.position] == session.token_ids


def test_choice_probabilities_are_the_softmax_of_plain_log_probabilities():
    model, tokenizer = MODELS["qwen3"]
    with wb.Engine((model, tokenizer), cells=1024, start=False) as engine:
        session = engine.open("s", cells=100)
        session.push("some data")
        answer = session.ask_start("which?", choices=WORDS)
        run_until_idle(engine)
        totals = []
        for word in WORDS:
            ids = engine.tokens.choice(word)
            log = [*answer.input_ids, *ids]
            from workbench.testing import plain_logits

            rows = torch.log_softmax(plain_logits(model, log), dim=-1)
            first = len(answer.input_ids) - 1
            totals.append(sum(rows[first + i, t].item() for i, t in enumerate(ids)))
        want = torch.softmax(torch.tensor(totals), 0).tolist()
        assert list(answer.probabilities) == WORDS
        assert list(answer.probabilities.values()) == pytest.approx(want, abs=1e-3)
        assert answer.confidence == max(answer.probabilities.values())


def test_one_wrong_cell_would_show():
    """The bound is not so wide that a misread cell hides under it."""
    model = MODELS["llama"]
    with wb.Engine(model, cells=512, start=False) as engine:
        session = engine.open("s", cells=100)
        session.push("the quick brown fox")
        run_until_idle(engine)
        cells = session.ingest.sequence.slots(3, 4)
        for tensor in engine.cells.v.values():
            tensor[:, cells] = 0
        answer = session.ask_start("what?", max_tokens=4)
        run_until_idle(engine)
        with pytest.raises(AssertionError):
            assert_recomputes(model[0], answer, 100 * BOUND)


def test_bfloat16_stays_within_its_own_rounding():
    """bfloat16 has 8 bits: near 5 its values are 0.03 apart, and sums differ by a few of these."""
    model = tiny_model("llama", dtype=torch.bfloat16)
    with wb.Engine(model, cells=512, limits=StepLimits(tokens=7), start=False) as engine:
        poison_free_cells(engine)
        session = engine.open("s", cells=200)
        session.push("the quick brown fox jumps over the lazy dog")
        answer = session.ask_start("what?", max_tokens=6)
        run_until_idle(engine)
        assert_recomputes(model[0], answer, 0.15)
