"""The CPU backend against the float64 reference, over shapes that break kernels."""

import itertools

import pytest
import torch

import workbench_kernels as kernels
from workbench_kernels import reference
from workbench_kernels.testing import relative_error
from workbench_kernels.tiles import Run, SliceRows, consecutive

# Scores and sums in float32 against float64: a few units in the last place of values near 1.
F32_BOUND = 5e-6
# Of an output's length. Inputs are equal on both sides; what is left is the rounding of the softmax
# weights and of the output to bfloat16, each to 2**-9 of itself.
BF16_BOUND = 1e-2

CELLS = 700


def layout(num_rows: int, context: int, num_runs: int) -> SliceRows:
    """One slice whose context is scattered over the pool in ``num_runs`` runs."""
    total = num_rows + context
    size = -(-total // num_runs)
    lengths = [min(size, total - i * size) for i in range(num_runs) if total > i * size]
    starts = itertools.accumulate([n + 3 for n in reversed(lengths)], initial=1)
    spans = list(zip(list(starts), reversed(lengths), strict=False))
    return SliceRows(0, num_rows, context, consecutive(*reversed(spans)))


def pools(kv_heads: int, dim: int, value_dim: int, dtype: torch.dtype, used: list[Run]):
    """K and V pools with NaN wherever no run lies."""
    generator = torch.Generator().manual_seed(1)
    k = torch.full((kv_heads, CELLS, dim), torch.nan, dtype=dtype)
    v = torch.full((kv_heads, CELLS, value_dim), torch.nan, dtype=dtype)
    for run in used:
        cells = slice(run.start, run.start + run.length)
        k[:, cells] = torch.randn(kv_heads, run.length, dim, generator=generator).to(dtype)
        v[:, cells] = torch.randn(kv_heads, run.length, value_dim, generator=generator).to(dtype)
    return k, v


def compare(slices, *, heads=4, kv_heads=2, dim=16, value_dim=16, window=None,
            dtype=torch.float32, **options):  # fmt: skip
    runs = [run for item in slices for run in item.runs]
    k, v = pools(kv_heads, dim, value_dim, dtype, runs)
    rows = sum(item.num_rows for item in slices)
    q = torch.randn(rows, heads, dim, generator=torch.Generator().manual_seed(2)).to(dtype)
    plan = kernels.plan_tiles(slices, window=window)
    got = kernels.attend(q, k, v, plan, scale=dim**-0.5, **options)
    want = reference.attend(q, k, v, plan, scale=dim**-0.5, **options)
    assert got.dtype == dtype and got.shape == (rows, heads, value_dim)
    if dtype == torch.float32:
        torch.testing.assert_close(got.double(), want, rtol=0, atol=F32_BOUND)
    else:
        assert relative_error(got, want) <= BF16_BOUND


@pytest.mark.parametrize("num_runs", [1, 3, 5])
@pytest.mark.parametrize("context", [0, 1, 63, 64, 65, 257])
@pytest.mark.parametrize("num_rows", [1, 2, 31, 64])
def test_lengths_and_runs(num_rows, context, num_runs):
    compare([layout(num_rows, context, num_runs)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (8, 2), (8, 1)])
@pytest.mark.parametrize("dim", [8, 33, 64])
def test_head_layouts(heads, kv_heads, dim, dtype):
    compare([layout(7, 90, 2)], heads=heads, kv_heads=kv_heads, dim=dim, value_dim=dim, dtype=dtype)


@pytest.mark.parametrize("window", [None, 1, 5, 40, 1000])
def test_windows(window):
    compare([layout(1, 130, 3)], window=window)
    compare([layout(50, 130, 3)], window=window)


@pytest.mark.parametrize("window", [None, 20])
def test_branches_share_runs(window):
    trunk = (10, 100)
    slices = [
        SliceRows(0, 3, 100, consecutive(trunk, (200, 3))),
        SliceRows(3, 1, 104, consecutive(trunk, (210, 5))),
        SliceRows(4, 2, 61, consecutive((10, 61), (220, 2))),
        SliceRows(6, 4, 103, consecutive(trunk, (200, 3), (230, 4))),  # a branch of a branch
    ]
    compare(slices, window=window)


@pytest.mark.parametrize("options", [
    {"softcap": 3.0}, {"sinks": torch.linspace(-2, 3, 4)},
    {"softcap": 3.0, "sinks": torch.linspace(-2, 3, 4)},
])  # fmt: skip
def test_softcap_and_sinks(options):
    compare([layout(5, 120, 2)], window=30, **options)


def test_a_value_dim_of_its_own():
    compare([layout(5, 120, 2)], dim=24, value_dim=16)


def test_long_contexts_take_several_blocks_of_the_plain_path():
    from workbench_kernels import cpu

    assert CELLS < cpu.BLOCK
    slices = [SliceRows(0, 2, 2 * cpu.BLOCK, consecutive((0, 2 * cpu.BLOCK + 2)))]
    k = torch.randn(1, 2 * cpu.BLOCK + 2, 8)
    q = torch.randn(2, 2, 8)
    plan = kernels.plan_tiles(slices)
    got = kernels.attend(q, k, k, plan, scale=0.3, softcap=5.0)
    want = reference.attend(q, k, k, plan, scale=0.3, softcap=5.0)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=F32_BOUND)


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}], ids=["flash", "plain"])
@pytest.mark.parametrize("window", [None, 2500])
def test_a_mask_is_no_larger_than_what_it_masks(window, options):
    """40 rows at the end of 3,000 cells, and 7 of a branch that shares most of them."""
    from workbench_kernels import cpu

    slices = [
        SliceRows(0, 40, 2960, consecutive((10, 3000))),
        SliceRows(40, 7, 2900, consecutive((10, 2900), (3100, 7))),
    ]
    k = torch.full((2, 3200, 16), torch.nan)
    k[:, 10:3010] = torch.randn(2, 3000, 16)
    k[:, 3100:3107] = torch.randn(2, 7, 16)
    q = torch.randn(47, 4, 16)
    plan = kernels.plan_tiles(slices, window=window)
    got = cpu.attend_by_tile(q, k, k, plan, scale=0.25, **options)
    want = reference.attend(q, k, k, plan, scale=0.25, **options)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=F32_BOUND)
    biases = [tile.bias.shape[1] for parts in plan.prepared.values() for tile in parts
              if tile.bias is not None]  # fmt: skip
    assert biases and max(biases) <= 150


def test_writing_cells_touches_only_their_slots():
    pool = torch.zeros(2, 6, 3)
    values = torch.arange(12.0).view(2, 2, 3) + 1
    kernels.write_cells(pool, torch.tensor([4, 1]), values)
    assert torch.equal(pool[:, 4], values[0]) and torch.equal(pool[:, 1], values[1])
    assert not pool[:, [0, 2, 3, 5]].any()


def test_the_active_backend_has_a_name():
    assert kernels.active() in ("cpu", "cpu-native")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("window", [None, 5, 60])
def test_rows_that_left_a_window_are_not_read(window, dtype):
    """Positions 10 .. 90 have no cells; what follows keeps its positions."""
    head, rest = Run(3, 10, 0), Run(200, 64, 90)
    branch = Run(400, 3, 150)
    slices = [
        SliceRows(0, 4, 150, (head, rest)),
        SliceRows(4, 3, 150, (head, Run(200, 60, 90), branch)),
    ]
    compare(slices, window=window, dim=32, value_dim=32, dtype=dtype)
