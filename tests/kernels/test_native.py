"""The compiled CPU kernels against the float64 reference, and that their absence is said aloud."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import workbench_kernels as kernels
from workbench_kernels import cpu, native, reference, scores
from workbench_kernels.testing import relative_error
from workbench_kernels.tiles import Run, SliceRows, consecutive

needs_native = pytest.mark.skipif(not native.available(), reason=native.reason() or "available")

# Of an output's length. Inputs are equal on both sides; what is left is the rounding of softmax
# weights and output to bfloat16, each to 2**-9 of itself.
BOUND = 1e-2


def case(slices, *, heads, kv_heads, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    k = torch.full((kv_heads, 5000, dim), torch.nan, dtype=torch.bfloat16)
    v = k.clone()
    for run in {run for item in slices for run in item.runs}:
        cells = slice(run.start, run.start + run.length)
        for pool in (k, v):
            new = torch.randn(kv_heads, run.length, dim, generator=generator)
            pool[:, cells] = new.to(torch.bfloat16)
    rows = sum(item.num_rows for item in slices)
    q = torch.randn(rows, heads, dim, generator=generator).to(torch.bfloat16)
    return q, k, v


BATCH = [
    SliceRows(0, 3, 150, consecutive((100, 153))),
    SliceRows(3, 1, 60, consecutive((100, 50), (300, 11))),
    SliceRows(4, 2, 60, consecutive((100, 50), (300, 11), (400, 1))),
    SliceRows(6, 33, 0, consecutive((440, 33))),
    SliceRows(39, 70, 180, consecutive((500, 250))),
]


@needs_native
@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("window", [None, 1, 5, 37, 150])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (4, 4), (8, 1), (3, 1)])
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
def test_a_ragged_batch(dim, heads, kv_heads, window, sinks):
    q, k, v = case(BATCH, heads=heads, kv_heads=kv_heads, dim=dim)
    plan = kernels.plan_tiles(BATCH, window=window)
    sink = torch.linspace(-2, 3, heads) if sinks else None
    assert native.fits(q, k, v, None)
    got = native.attend(q, k, v, plan, scale=dim**-0.5, sinks=sink)
    want = reference.attend(q, k, v, plan, scale=dim**-0.5, sinks=sink)
    assert relative_error(got, want) <= BOUND


@needs_native
def test_a_model_that_loads_meanwhile_changes_no_size():
    """Loaders set torch's default type for the whole process; the kernel writes float32."""
    q, k, v = case(BATCH, heads=8, kv_heads=2, dim=64)
    want = native.attend(q, k, v, kernels.plan_tiles(BATCH), scale=0.1)
    plan = kernels.plan_tiles(BATCH)
    try:
        torch.set_default_dtype(torch.bfloat16)
        got = native.attend(q, k, v, plan, scale=0.1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert plan.prepared["native"].partial(8, 64).dtype == torch.float32
    assert torch.equal(got, want)


@needs_native
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 2047, 2048, 2049, 4300])
@pytest.mark.parametrize("start", [0, 3])
def test_block_and_unit_borders(start, length):
    slices = [SliceRows(0, 1, length - 1, consecutive((start, length)))]
    q, k, v = case(slices, heads=4, kv_heads=2, dim=32)
    borders = [start + i for i in {0, 127, 128, 2047, 2048, length - 1} if i < length]
    v[:, borders] *= 16  # so that each of them matters among thousands
    plan = kernels.plan_tiles(slices)
    exact = reference.attend(q, k, v, plan, scale=0.2)
    for cell in borders:
        lost = v.clone()
        lost[:, cell] = 0
        assert relative_error(reference.attend(q, k, lost, plan, scale=0.2), exact) > 2 * BOUND
    got = native.attend(q, k, v, plan, scale=0.2)
    want = reference.attend(q, k, v, plan, scale=0.2)
    assert relative_error(got, want) <= BOUND


@needs_native
@pytest.mark.parametrize("window", [None, 5, 60, 2500])
@pytest.mark.parametrize("head", [0, 10, 128], ids=["nothing", "10", "128"])
def test_rows_that_left_a_window_are_not_read(head, window):
    """Positions up to 300 have no cells, but for the first ``head``; the others keep theirs.

    The pools hold NaN where no run lies, and a unit of 2,048 cells ends within the rest.
    """
    kept = (Run(0, head, 0),) if head else ()
    slices = [
        SliceRows(0, 4, 2696, (*kept, Run(300, 2400, 300))),
        SliceRows(4, 3, 2690, (*kept, Run(300, 2390, 300), Run(2800, 3, 2690))),
        SliceRows(7, 66, 310, (*kept, Run(300, 10, 300), Run(3000, 66, 310))),
    ]
    q, k, v = case(slices, heads=4, kv_heads=2, dim=32)
    plan = kernels.plan_tiles(slices, window=window)
    got = native.attend(q, k, v, plan, scale=0.2)
    want = reference.attend(q, k, v, plan, scale=0.2)
    assert relative_error(got, want) <= BOUND
    other = cpu.attend_by_tile(q, k, v, plan, scale=0.2)
    assert relative_error(other, want) <= BOUND


@needs_native
def test_who_else_is_in_the_step_changes_bits_only_by_leaving_a_run():
    trunk = (0, 3000)
    alone = [SliceRows(0, 2, 3000, consecutive(trunk, (3500, 2)))]
    strangers = [*alone, SliceRows(2, 64, 300, consecutive((4000, 364)))]
    leaver = SliceRows(66, 5, 2501, consecutive((0, 2501), (3600, 5)))
    q, k, v = case([*strangers, leaver], heads=8, kv_heads=2, dim=64)
    some = native.attend(q[:2], k, v, kernels.plan_tiles(alone), scale=0.125)
    many = native.attend(q[:66], k, v, kernels.plan_tiles(strangers), scale=0.125)
    assert torch.equal(some, many[:2])
    many = native.attend(q, k, v, kernels.plan_tiles([*strangers, leaver]), scale=0.125)
    assert relative_error(many[:2], some) <= BOUND


@needs_native
@pytest.mark.parametrize("window", [None, 900])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(8, 2, 64), (3, 1, 96), (2, 2, 32), (8, 1, 128), (2, 1, 256)]
)
def test_a_row_is_the_same_bits_beside_any_number_of_others(heads, kv_heads, dim, window):
    """Few rows and many are computed in different ways, and those beyond whole vectors again."""
    trunk, most = (0, 1001), 70
    slices = [SliceRows(i, 1, 1001, consecutive(trunk, (1100 + i, 1))) for i in range(most)]
    q, k, v = case(slices, heads=heads, kv_heads=kv_heads, dim=dim)
    k[:, 500:503] *= 9  # so that the largest score comes late for some rows
    whole = native.attend(q, k, v, kernels.plan_tiles(slices, window=window), scale=dim**-0.5)
    want = reference.attend(q, k, v, kernels.plan_tiles(slices, window=window), scale=dim**-0.5)
    assert relative_error(whole, want) <= BOUND
    for rows in (*range(1, 10), 12, 16, 17, 20, 24, 33, 40, 64):
        plan = kernels.plan_tiles(slices[:rows], window=window)
        some = native.attend(q[:rows], k, v, plan, scale=dim**-0.5)
        assert torch.equal(some, whole[:rows]), rows


@needs_native
@pytest.mark.parametrize("scale", [-0.2, 0.0])
@pytest.mark.parametrize("rows", [1, 8, 100])
def test_a_scale_of_zero_and_below(rows, scale):
    slices = [SliceRows(0, rows, 124, consecutive((0, 124 + rows)))]
    q, k, v = case(slices, heads=2, kv_heads=1, dim=32)
    plan = kernels.plan_tiles(slices)
    got = native.attend(100 * q, k, v, plan, scale=scale)
    want = reference.attend(100 * q, k, v, plan, scale=scale)
    assert relative_error(got, want) <= BOUND


@needs_native
def test_threads_do_not_change_a_bit():
    q, k, v = case(BATCH, heads=8, kv_heads=2, dim=64)
    plan = kernels.plan_tiles(BATCH)
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outs.append(native.attend(q, k, v, plan, scale=0.125))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


@needs_native
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("factor", [100, 30_000, 1e6])
def test_scores_far_apart_do_not_overflow(factor, rows):
    slices = [SliceRows(0, rows, 299, consecutive((0, 299 + rows)))]
    q, k, v = case(slices, heads=2, kv_heads=1, dim=32)
    plan = kernels.plan_tiles(slices)
    got = native.attend(q * factor, k * factor, v, plan, scale=1.0)
    want = reference.attend(q * factor, k * factor, v, plan, scale=1.0)
    assert relative_error(got, want) <= BOUND


@needs_native
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_not_a_number_is_not_swallowed_where_little_is_seen(before, rows):
    slices = [SliceRows(0, rows, before, consecutive((0, before + rows)))]
    q, k, v = case(slices, heads=2, kv_heads=1, dim=32)
    q[0, 0, 5] = torch.nan
    out = native.attend(q, k, v, kernels.plan_tiles(slices), scale=0.2)
    assert bool(torch.isnan(out[0, 0]).all()) and not bool(torch.isnan(out[1:]).any())


@needs_native
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_not_a_number_is_never_swallowed(which, rows):
    slices = [SliceRows(0, rows, 199, consecutive((0, 199 + rows)))]
    q, k, v = case(slices, heads=2, kv_heads=1, dim=32)
    {"q": q[0, 0], "k": k[0, 70], "v": v[0, 70]}[which][5] = torch.nan
    out = native.attend(q, k, v, kernels.plan_tiles(slices), scale=0.2)
    assert bool(torch.isnan(out).any())


@needs_native
@pytest.mark.parametrize(("outer", "inner"), [(1, 32), (33, 96), (64, 64), (1000, 160)])
def test_packed_weights_come_back(outer, inner):
    weight = torch.randn(outer, inner).bfloat16()
    packed = native.pack(weight)
    assert packed.shape == native.packed_shape(outer, inner)
    assert torch.equal(native.unpack(packed, outer), weight)
    panel, column = divmod(outer - 1, 32)
    assert torch.equal(packed[panel, :, column // 16, column % 16].flatten(), weight[-1])
    assert not packed[-1].permute(1, 2, 0, 3).reshape(32, -1)[column + 1 :].any()  # room to spare


@needs_native
def test_only_what_the_kernel_takes_is_packed():
    with pytest.raises(ValueError, match="expected bfloat16 and rows in multiples of 32"):
        native.pack(torch.zeros(4, 48).bfloat16())
    with pytest.raises(ValueError, match="expected bfloat16"):
        native.pack(torch.zeros(4, 32))


@needs_native
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 31, 128, 129, 300])
@pytest.mark.parametrize(("outer", "inner"), [(1, 32), (7, 64), (1000, 96), (300, 1024)])
def test_a_product(rows, outer, inner, bias):
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    x, w, b = random(1, rows, inner), random(outer, inner), random(outer) if bias else None
    got = native.linear(x, native.pack(w), b, outer)
    want = x.double() @ w.double().T + (0 if b is None else b.double())
    # One rounding of the result to 8 bits, and float32 sums.
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-3)


@needs_native
def test_a_row_of_a_product_is_the_same_bits_beside_any_others():
    x, w = torch.randn(300, 256).bfloat16(), native.pack(torch.randn(100, 256).bfloat16())
    whole = native.linear(x, w, None, 100)
    for rows in (*range(1, 30), 64, 127, 128, 129, 131, 256):
        assert torch.equal(native.linear(x[:rows], w, None, 100), whole[:rows]), rows


@needs_native
@pytest.mark.parametrize("vocab", [1, 15, 16, 17, 1000, 70_001])
def test_scores(vocab):
    generator = torch.Generator().manual_seed(5)
    logits = 4 * torch.randn(5, vocab, generator=generator)
    logits[1] = 2.0  # all equal: the first is the likeliest
    logits[2, vocab // 2] = 300.0
    logits[3, -1] = logits[3].max()  # of equals
    logits[4, : vocab // 2] = -torch.inf
    labels = torch.randint(-1, vocab, (5, 3), generator=generator)
    labels[:, 0] = 0
    got, want = native.score(logits, labels), scores.score(logits.double(), labels)
    assert got.tokens.tolist() == want.tokens.tolist()
    for mine, exact in ((got.logprobs, want.logprobs), (got.labels, want.labels)):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-6, atol=2e-5)
    assert native.score(logits).labels.shape == (5, 0)
    assert native.score(logits[:0]).tokens.shape == (0,)


@needs_native
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("at", [0, 20, 99])
def test_scores_of_logits_that_are_not_finite_are_not_either(wrong, at):
    logits = torch.randn(2, 100)
    logits[1, at] = wrong
    first, second = native.score(logits).logprobs.tolist()
    assert math.isfinite(first) and math.isnan(second)
    assert math.isnan(native.score(torch.full((1, 40), -torch.inf)).logprobs.item())


@needs_native
def test_norms_of_some_rows_are_the_models_own():
    x, weight = torch.randn(9, 96).bfloat16(), torch.randn(96).bfloat16()
    rows = torch.tensor([8, 0, 0, 3])
    got = native.norm_rows(x, rows, weight, 1e-5)
    want = reference.norm(x, weight, 1e-5)[rows]
    torch.testing.assert_close(got.float(), want.float(), rtol=2**-7, atol=1e-6)
    assert native.norm_rows(x, rows[:0], weight, 1e-5).shape == (0, 96)


@needs_native
def test_a_peak_is_of_as_many_operations_as_were_computed():
    assert native.peak_flops() > 1e9  # any processor that has the instruction
    threads, times = 3, 100
    assert native.library.load()[0].wb_peak(times, threads) == threads * times * 24 * 16 * 4


@needs_native
def test_a_product_is_written_where_it_belongs_and_nowhere_else():
    x, w = torch.randn(3, 32).bfloat16(), torch.randn(40, 32).bfloat16()
    room = torch.full((3 * 40 + 64,), 7.0).bfloat16()
    library, packed = native.library.load()[0], native.pack(w)
    library.wb_linear(x.data_ptr(), packed.data_ptr(), None, room.data_ptr(), 3, 40, 32, 2)
    assert torch.equal(room[:120].view(3, 40), native.linear(x, packed, None, 40))
    assert (room[120:] == 7.0).all()


def test_what_does_not_fit_goes_to_torch():
    q = torch.randn(1, 2, 32)
    k = torch.randn(1, 10, 32)
    assert not native.fits(q, k, k, None)
    q, k = q.bfloat16(), k.bfloat16()
    assert native.fits(q, k, k, None)
    assert not native.fits(q, k, k, 5.0)
    assert not native.fits(q[..., :24], k[..., :24], k[..., :24], None)


def test_both_paths_agree():
    q, k, v = case(BATCH, heads=8, kv_heads=2, dim=64)
    plan = kernels.plan_tiles(BATCH)
    one = cpu.attend(q, k, v, plan, scale=0.125)
    other = cpu.attend_by_tile(q, k, v, plan, scale=0.125)
    assert relative_error(one, other) <= 2 * BOUND


@needs_native
def test_a_library_of_other_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(native.library, "VERSION", native.library.VERSION + 1)
    library, reason = native.library.load.__wrapped__()
    assert library is None and "built from other sources" in reason


def test_a_library_of_another_python_is_not_used(monkeypatch):
    monkeypatch.setattr(native.library.sysconfig, "get_config_var", lambda _: ".other.so")
    library, reason = native.library.load.__wrapped__()
    assert library is None and "not built" in reason


def test_absence_is_said():
    code = "import workbench_kernels as k; print(k.active(), '|', k.native.reason())"
    env = {**os.environ, "WORKBENCH_NATIVE": "0"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert out == "cpu | switched off by WORKBENCH_NATIVE=0\n"
    assert kernels.active() == ("cpu-native" if native.available() else "cpu")


@needs_native
def test_threads_have_teams_of_their_own():
    """Two engines in one process, and a thread count that changes between calls."""
    x, w = torch.randn(5, 256).bfloat16(), native.pack(torch.randn(300, 256).bfloat16())
    want = native.linear(x, w, None, 300)
    before = torch.get_num_threads()

    def work(threads):
        torch.set_num_threads(threads)
        return all(torch.equal(native.linear(x, w, None, 300), want) for _ in range(50))

    try:
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(work, [1, 2, 3, 2, 1, 3]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(native.linear(x, w, None, 300), want)


@needs_native
def test_a_forked_process_makes_a_team_of_its_own():
    code = """
import os, torch
from workbench_kernels import native
torch.set_num_threads(2)
x, w = torch.ones(1, 64).bfloat16(), native.pack(torch.ones(8, 64).bfloat16())
assert native.linear(x, w, None, 8).sum() == 512
if child := os.fork():  # its handles of the helpers are of threads that are not there
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for threads in (2, 3):
    torch.set_num_threads(threads)
    assert native.linear(x, w, None, 8).sum() == 512
raise SystemExit(0)  # as usual, with the teams' ends
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0
