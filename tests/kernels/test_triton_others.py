"""What the GPU's attention is timed beside computes the same: on a CPU, uncompiled."""

import sys

import pytest
import torch

from workbench_kernels import bench_gpu, reference
from workbench_kernels.gpu import others
from workbench_kernels.testing import inputs
from workbench_kernels.tiles import SliceRows, consecutive

CELLS, BRANCHES, ROWS = 40, 3, 2


def shaped():
    """Questions on one context that see all of it, and what attention over it alone gives."""
    q, k, v = inputs([SliceRows(0, BRANCHES * ROWS, CELLS, consecutive((0, CELLS)))],
                     heads=4, kv_heads=2, k_dim=16)  # fmt: skip
    query = q.view(BRANCHES, ROWS, 4, 16).transpose(1, 2)
    keys, values = (x[None, :, :CELLS].expand(BRANCHES, -1, -1, -1) for x in (k, v))
    slices = [SliceRows(0, len(q), CELLS, consecutive((0, CELLS)))]
    want = reference.attend_slices(q, k, v, slices, scale=0.3)
    return (query, keys, values, 0.3), want.view(BRANCHES, ROWS, 4, 16).transpose(1, 2)


@pytest.mark.parametrize("name", ["SDPA", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_peers_attend_to_the_same(name):
    arguments, want = shaped()
    got = others.PEERS[name](*arguments)()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)


def test_a_peer_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ModuleNotFoundError, match="flash_attn"):
        others.flash(*shaped()[0])


def test_flash_attention_gets_tokens_before_heads(monkeypatch):
    class Package:
        @staticmethod
        def flash_attn_with_kvcache(q, k, v, softmax_scale):
            heads_first = [x.transpose(1, 2) for x in (q, k, v)]
            return others.sdpa(*heads_first, softmax_scale)().transpose(1, 2)

    monkeypatch.setitem(sys.modules, "flash_attn", Package)
    arguments, want = shaped()
    torch.testing.assert_close(others.flash(*arguments)().double(), want, rtol=0, atol=1e-5)


def test_peers_are_timed_or_say_why_not(monkeypatch):
    from workbench_kernels.gpu import measuring

    class Layers:
        scale = 0.3
        inputs = ((torch.randn(BRANCHES * ROWS, 4, 16), *torch.randn(2, 2, CELLS, 16)),)

    monkeypatch.setattr(measuring, "seconds", lambda calls: float(len(calls)))
    monkeypatch.setattr(others, "PEERS", {
        "SDPA": others.sdpa, "flash": others.flash,
        "wrong": lambda q, k, v, scale: others.sdpa(q, k, v, 2 * scale),
    })  # fmt: skip
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    found = bench_gpu.peers(Layers, BRANCHES, ROWS, CELLS)
    assert found["SDPA"] == 1e6
    assert "flash_attn" in found["flash"] and found["wrong"].startswith("off by ")
