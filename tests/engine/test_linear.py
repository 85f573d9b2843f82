"""Few rows go to the compiled kernel, many to torch; both mean the same."""

import pytest
import torch
from torch import nn

from workbench.engine.linear import quicken
from workbench_kernels import native


@pytest.mark.skipif(not native.available(), reason=native.reason() or "available")
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_quickened_layer_gives_the_same(rows):
    layer = nn.Linear(64, 50).to(torch.bfloat16)
    x = torch.randn(1, rows, 64).to(torch.bfloat16)
    with torch.inference_mode():
        want = layer(x)
        assert quicken(nn.Sequential(layer)) == 1
        got = layer(x)
    # Each side rounds a float32 sum once to 8 bits.
    torch.testing.assert_close(got, want, rtol=2**-7, atol=2**-9)


def test_what_does_not_fit_is_left_alone():
    layers = nn.Sequential(nn.Linear(64, 8), nn.Linear(30, 8).to(torch.bfloat16))
    assert quicken(layers) == 0
