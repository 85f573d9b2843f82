"""Rows of a step, scored one by one or all at once: the same numbers."""

import pytest
import torch

from workbench.engine import logits as module
from workbench.engine.logits import Logits
from workbench_kernels import scores

LABELS = [[3, 0, 7], (), [5]]


@pytest.fixture
def values():
    return torch.randn(3, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def together(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(module.kernels, "active", lambda device: "triton")
        monkeypatch.setattr(module.kernels, "score", scores.score)
    return request.param


def test_a_row_has_its_best_token_and_its_labels(values, together):
    logprobs = torch.log_softmax(values, -1)
    rows = Logits.of(values, LABELS)
    assert (rows.known is not None) == together
    for number, labels in enumerate(LABELS):
        scored = rows.scored(number)
        assert scored.token == int(values[number].argmax())
        assert scored.logprob == pytest.approx(float(logprobs[number].max()))
        wanted = [float(logprobs[number, token]) for token in labels]
        assert scored.labels == pytest.approx(wanted)
        assert torch.equal(rows.row(number), values[number])


def test_parts_are_consecutive_rows(values, together):
    whole = Logits.of(values, LABELS)
    none, two, one = whole.split([0, 2, 1])
    assert (len(none), len(two), len(one)) == (0, 2, 1)
    assert [*(two.scored(n) for n in range(2)), one.scored(0)] == [
        whole.scored(n) for n in range(3)
    ]
    assert torch.equal(one.row(0), values[2])


def test_no_row_at_all(together):
    assert len(Logits.of(torch.empty(0, 9), ())) == 0
