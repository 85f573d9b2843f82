"""Greedy, seeded, nucleus; and the options that are refused."""

import math

import pytest
import torch

from workbench.engine.logits import Logits
from workbench.engine.sampler import Sampler, Sampling, chances_of
from workbench.errors import QuestionError


def one(values):
    return Logits.of(torch.as_tensor(values)[None], [()])


def test_greedy_takes_the_likeliest_with_its_log_probability():
    token, logprob = Sampler(Sampling()).pick(one([0.0, 2.0, 1.0]), 0)
    assert token == 1
    assert logprob == pytest.approx(2 - math.log(1 + math.e + math.e**2))


def test_a_seed_repeats_and_another_differs():
    def draw(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.pick(one(torch.zeros(50)), 0)[0] for _ in range(20)]

    assert draw(3) == draw(3) != draw(4)
    assert draw(None) != draw(None)


def test_sampling_follows_the_temperature():
    logits = one(torch.log(torch.tensor([0.7, 0.2, 0.1])))
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    counts = torch.bincount(torch.tensor([sampler.pick(logits, 0)[0] for _ in range(3000)]))
    assert (counts / 3000).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.04)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = one(torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25])))
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.7, seed=1))
    assert {sampler.pick(logits, 0)[0] for _ in range(300)} == {1, 3}


@pytest.mark.parametrize("bad", [
    {"max_tokens": 0}, {"max_tokens": 2.5}, {"max_tokens": True}, {"temperature": -1},
    {"temperature": "1"}, {"top_p": "1"},
    {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}, {"stop": ("",)}, {"seed": "x"},
    {"seed": 2**64}, {"seed": -(2**63) - 1},
])  # fmt: skip
def test_bad_options_say_what_was_expected(bad):
    (name,) = bad
    with pytest.raises(QuestionError, match=f"{name}=.*expected"):
        Sampling(**bad)


def test_choices_have_chances_among_each_other_by_all_their_tokens():
    chances = chances_of([[math.log(0.5), math.log(0.8)], [math.log(0.3)]])
    assert chances == pytest.approx([0.4 / 0.7, 0.3 / 0.7])
    assert chances_of([[-math.inf], [-1.0, -2.0]]) == [0.0, 1.0]
    with pytest.raises(QuestionError, match="none of the choices"):
        chances_of([[-math.inf], [-1.0, -math.inf]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_not_finite_are_refused(bad, temperature):
    with pytest.raises(QuestionError, match="not finite"):
        Sampler(Sampling(temperature=temperature)).pick(one([0.0, bad, 1.0]), 0)


def test_tokens_that_are_ruled_out_are_no_error():
    masked = one([0.0, -math.inf, 1.0])
    assert Sampler(Sampling()).pick(masked, 0)[0] == 2
    assert Sampler(Sampling(temperature=9.0, seed=0)).pick(masked, 0)[0] != 1
