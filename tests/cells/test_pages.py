"""Memory in large pages is memory like any other; models that move into it stay what they were."""

import mmap
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.cells import pages


@pytest.mark.parametrize("shape", [(3,), (2, 5000, 64), (4, 40_000, 32)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_has_the_shape_and_keeps_what_is_written(shape, dtype):
    tensor = pages.empty(shape, dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    want = torch.randn(shape).to(dtype)
    tensor.copy_(want)
    assert torch.equal(tensor, want)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="Linux gives pages on request")
def test_large_memory_asks_for_large_pages():
    tensor = pages.empty((8 << 20,), torch.uint8)
    assert tensor.data_ptr() % pages.LARGE == 0
    maps = Path("/proc/self/smaps").read_text().splitlines()
    flags = ""
    for line in maps:
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            first, last = (int(x, 16) for x in head.split("-"))
            inside = first <= tensor.data_ptr() < last
        elif head == "VmFlags:" and inside:
            flags = line
    assert " hg" in flags  # "huge page advise"


def test_a_model_that_moved_computes_the_same_and_what_was_tied_is():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(3000, 512)
            self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(3))
            self.head = nn.Linear(512, 3000, bias=False)
            self.head.weight = self.embed.weight
            self.odd = nn.Parameter(torch.randn(7, 5).t(), requires_grad=False)  # not contiguous

        def forward(self, ids):
            x = self.embed(ids)
            for layer in self.layers:
                x = layer(x)
            return self.head(x) * self.odd.sum()

    model, ids = Model(), torch.tensor([[1, 5, 2999]])
    want, before = model(ids), {n: p.data_ptr() for n, p in model.named_parameters()}
    pages.move(model.parameters())
    after = {n: p.data_ptr() for n, p in model.named_parameters()}
    assert torch.equal(model(ids), want)
    assert model.head.weight is model.embed.weight
    assert {n for n in after if after[n] == before[n]} == {"odd"}
    assert all(p.data_ptr() % pages.LINE == 0 for n, p in model.named_parameters() if n != "odd")


def test_a_small_model_stays_where_it_is():
    model = nn.Linear(8, 8)
    before = model.weight.data_ptr()
    pages.move(model.parameters())
    assert model.weight.data_ptr() == before
