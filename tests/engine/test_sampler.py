"""Greedy, seeded, nucleus; and the options that are refused."""

import math

import pytest
import torch

from workbench.engine.sampler import Sampler, Sampling, score_choices
from workbench.errors import QuestionError


def test_greedy_takes_the_likeliest_with_its_log_probability():
    token, logprob = Sampler(Sampling()).pick(torch.tensor([0.0, 2.0, 1.0]))
    assert token == 1
    assert logprob == pytest.approx(2 - math.log(1 + math.e + math.e**2))


def test_a_seed_repeats_and_another_differs():
    def draw(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.pick(torch.zeros(50))[0] for _ in range(20)]

    assert draw(3) == draw(3) != draw(4)
    assert draw(None) != draw(None)


def test_sampling_follows_the_temperature():
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1]))
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    counts = torch.bincount(torch.tensor([sampler.pick(logits)[0] for _ in range(3000)]))
    assert (counts / 3000).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.04)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.7, seed=1))
    assert {sampler.pick(logits)[0] for _ in range(300)} == {1, 3}


@pytest.mark.parametrize("bad", [
    {"max_tokens": 0}, {"max_tokens": 2.5}, {"max_tokens": True}, {"temperature": -1},
    {"temperature": math.nan}, {"top_p": 0}, {"top_p": 1.1}, {"stop": ("",)}, {"seed": "x"},
])  # fmt: skip
def test_bad_options_say_what_was_expected(bad):
    (name,) = bad
    with pytest.raises(QuestionError, match=f"{name}=.*expected"):
        Sampling(**bad)


def test_choices_are_scored_over_all_their_tokens():
    last = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    after = torch.log(torch.tensor([[0.1, 0.1, 0.8]]))
    chances, logprobs = score_choices(last, [after, after[:0]], [[0, 2], [1]])
    assert chances == pytest.approx([0.4 / 0.7, 0.3 / 0.7])
    assert [math.exp(sum(lp)) for lp in logprobs] == pytest.approx([0.4, 0.3])
