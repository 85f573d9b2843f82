"""The line is found under noise, stalls do not move it, and lasting change does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.scheduler.cost import CostModel

TRUE = {"base": 4e-3, "per_token": 3e-4, "per_read": 2e-8}


def steps(seed: int, num: int):
    """Tokens and reads as an engine meets them: decode, questions, chunks of ingestion."""
    draw = random.Random(seed)
    for _ in range(num):
        tokens = draw.choice([1, 2, 17, 33, 64, 128, 256])
        yield tokens, tokens * draw.choice([0, 500, 3000, 20_000])


def seconds(tokens, reads, line=TRUE):
    return line["base"] + line["per_token"] * tokens + line["per_read"] * reads


def worst_error(model: CostModel, line=TRUE) -> float:
    """Largest relative error over steps it has not seen."""
    return max(
        abs(model.predict(t, r) / seconds(t, r, line) - 1) for t, r in steps(seed=99, num=50)
    )


def test_an_exact_line_is_found():
    model = CostModel()
    for tokens, reads in steps(0, 200):
        model.observe(tokens, reads, seconds(tokens, reads))
    assert model.coefficients == pytest.approx(TRUE, rel=0.02)
    again = CostModel(**model.coefficients)
    assert again.predict(50, 9000) == pytest.approx(model.predict(50, 9000))


def test_noise_and_stalls_leave_it_close():
    draw, model = random.Random(5), CostModel()
    for i, (tokens, reads) in enumerate(steps(1, 600)):
        took = seconds(tokens, reads) * draw.gauss(1, 0.1)
        model.observe(tokens, reads, took + (0.5 if i % 50 == 49 else 0))
    assert worst_error(model) < 0.35


def test_one_stall_changes_little():
    model = CostModel()
    for tokens, reads in steps(2, 200):
        model.observe(tokens, reads, seconds(tokens, reads))
    model.observe(33, 33 * 500, 3.0)
    assert worst_error(model) < 0.1


def test_a_lasting_change_is_followed():
    slow, model = {name: 3 * value for name, value in TRUE.items()}, CostModel()
    for tokens, reads in steps(3, 200):
        model.observe(tokens, reads, seconds(tokens, reads))
    for tokens, reads in steps(4, 400):
        model.observe(tokens, reads, seconds(tokens, reads, slow))
    assert worst_error(model, slow) < 0.1


def test_steps_of_one_kind_only_stay_sane():
    """Hours of decoding say nothing about chunks: nothing may blow up meanwhile."""
    draw, model = random.Random(6), CostModel()
    for tokens, reads in steps(5, 200):
        model.observe(tokens, reads, seconds(tokens, reads))
    for _ in range(20_000):
        model.observe(1, 3000, seconds(1, 3000) * draw.gauss(1, 0.05))
    assert worst_error(model) < 0.1
    for tokens, reads in steps(6, 200):
        model.observe(tokens, reads, seconds(tokens, reads))
    assert worst_error(model) < 0.1


def test_what_fits_is_predicted_to_fit_and_one_more_is_not():
    model = CostModel(**TRUE)
    for context in (0, 1000, 20_000):
        more = model.tokens_within(0.05, 16, 16 * 2000, context)
        assert model.predict(16 + more, 16 * 2000 + more * context) <= 0.05 + 1e-9
        assert model.predict(17 + more, 16 * 2000 + (more + 1) * context) > 0.05
    assert model.tokens_within(0.001, 16, 0, 0) == 0
    assert CostModel(0, 0, 0).tokens_within(0.05, 1, 1, 1) == 10**9


@given(
    st.lists(
        st.tuples(st.integers(1, 600), st.integers(0, 30_000), st.floats(1e-5, 30)),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_it_sees_it_stays_within_what_it_saw(seen):
    """Timings of a busy machine have nothing of a line; predictions must not leave their range."""
    model = CostModel()
    for tokens, context, took in seen:
        model.observe(tokens, tokens * context, took)
    assert all(c >= 0 for c in model.coefficients.values())
    longest = max(took for *_, took in seen)
    for tokens, context, _ in seen:
        assert 0 <= model.predict(tokens, tokens * context) <= 4 * longest + 0.1
