"""Partial attentions merge to the whole."""

import torch

from workbench_kernels.merge import merge


def partial(scores, values):
    return torch.softmax(scores, -1) @ values, torch.logsumexp(scores, -1)


def test_two_parts_equal_one_softmax():
    scores, values = torch.randn(5, 40) * 8, torch.randn(40, 6)
    whole, whole_lse = partial(scores, values)
    got, lse = merge(*partial(scores[:, :13], values[:13]), *partial(scores[:, 13:], values[13:]))
    torch.testing.assert_close(got, whole)
    torch.testing.assert_close(lse, whole_lse)


def test_a_part_that_saw_nothing_changes_nothing():
    out, lse = partial(torch.randn(3, 9), torch.randn(9, 4))
    none = torch.zeros(3, 4), torch.full((3,), -torch.inf)
    for got, got_lse in (merge(out, lse, *none), merge(*none, out, lse)):
        torch.testing.assert_close(got, out)
        torch.testing.assert_close(got_lse, lse)
    empty, empty_lse = merge(*none, *none)
    assert not empty.any() and bool((empty_lse == -torch.inf).all())


def test_huge_scores_do_not_overflow():
    values = torch.randn(2, 4)
    got, lse = merge(values, torch.full((2,), 3e4), torch.zeros(2, 4), torch.full((2,), -3e4))
    torch.testing.assert_close(got, values)
    assert bool(torch.isfinite(lse).all())
