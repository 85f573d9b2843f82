"""The size of a step, from measured times: by a clock that only steps move."""

import pytest
import torch

from workbench.cells.tensors import LayerShape
from workbench.engine import calibrate as module
from workbench.engine.calibrate import SIZES, calibrate


class Clocked:
    """Stands in for a decoder; a step takes what ``cost`` says of its tokens."""

    dtype, device, vocab_size = torch.float32, "cpu", 50

    def __init__(self, cost, monkeypatch, max_positions=10_000):
        self.cost, self.max_positions = cost, max_positions
        self.layers = {0: LayerShape(1, 1, 32, 32, None)}
        self.now, self.sizes = 0.0, []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def forward(self, step):
        self.sizes.append(len(step.slots))
        self.now += self.cost(len(step.slots))
        return torch.zeros(len(step.keep), self.vocab_size)


def test_a_step_is_as_large_as_it_gains(monkeypatch):
    decoder = Clocked(lambda tokens: 1e-3 + 1e-5 * tokens, monkeypatch)
    limits, cost = calibrate(decoder)
    assert limits.tokens == 512  # 1.20e-5 a token; 256 has 1.39e-5
    assert sorted(set(decoder.sizes)) == list(SIZES)
    assert cost.predict(100, 0) == pytest.approx(2e-3, rel=0.05)


def test_larger_steps_than_gain_are_not_tried(monkeypatch):
    decoder = Clocked(lambda tokens: 3e-5 + 1e-5 * max(tokens, 32), monkeypatch)
    limits, _ = calibrate(decoder)
    assert limits.tokens == 64
    assert max(decoder.sizes) == 128


def test_a_large_model_is_not_measured_for_long(monkeypatch):
    decoder = Clocked(lambda tokens: 0.3 + 0.02 * tokens, monkeypatch)
    limits, _ = calibrate(decoder)
    assert limits.tokens == 64  # never fewer, whatever was measured
    assert decoder.now < 3


def test_a_model_of_few_positions_is_measured_within_them(monkeypatch):
    decoder = Clocked(lambda tokens: 1e-3, monkeypatch, max_positions=40)
    calibrate(decoder)
    assert max(decoder.sizes) == 32
