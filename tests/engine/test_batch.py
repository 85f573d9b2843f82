"""Padding gives steps few sizes, and changes nothing that is kept."""

import pytest
import torch

from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine import batch
from workbench.engine.batch import Part, Step, padded
from workbench.engine.model import load
from workbench.testing import tiny_model


def test_steps_have_few_sizes_and_little_padding():
    assert [padded(n) for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert all(n <= padded(n) <= max(n + 3, 1.25 * n) for n in range(1, 2000))
    assert len({padded(n) for n in range(1, 513)}) <= 40


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_padding_changes_no_logit_and_writes_no_cell(family, monkeypatch):
    decoder, _ = load(tiny_model(family), "float32", "cpu")

    def logits() -> tuple[torch.Tensor, CellTensors]:
        pool = CellPool(64)
        cells = CellTensors(decoder.layers, 64, decoder.dtype, decoder.device)
        cells.fill(pool.free_cells(), torch.nan)
        sequence = Sequence(pool)
        sequence.grow(40)
        for start, end in ((0, 7), (7, 18)):
            part = Part(sequence, start, list(range(start, end)), range(end - start))
            out = decoder.forward(Step.of([part], cells, decoder.device))
        return out, cells

    got, cells = logits()
    assert all(bool(k[:, 18:].isnan().all()) for k in cells.k.values())
    monkeypatch.setattr(batch, "padded", lambda tokens: tokens)
    want, _ = logits()
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert got.shape == (11, decoder.vocab_size)
