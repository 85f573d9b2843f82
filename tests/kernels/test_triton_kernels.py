"""The Triton kernels against the float64 references: on a GPU, or interpreted on a CPU.

One file for both. Under ``TRITON_INTERPRET=1``, as `test_triton_interpreted` runs it, the tensors
are on the CPU; otherwise the tests carry the mark ``gpu`` and need one. They import neither
`workbench` nor its conftest: ``pytest --noconftest -m gpu tests/kernels`` does on a machine with
torch, triton and pytest.
"""

import itertools

import pytest
import torch
import triton

from workbench_kernels import gpu, reference, scores, tuning
from workbench_kernels.gpu import units
from workbench_kernels.merge import merge
from workbench_kernels.testing import inputs, relative_error
from workbench_kernels.tiles import Run, SliceRows, consecutive, plan_tiles

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = torch.device("cpu") if INTERPRETED else torch.device("cuda", 0)  # as tensors name theirs
if INTERPRETED:
    # Triton 3.6's own, in NumPy before 2.4, which makes it an error.
    pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
else:
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
    pytestmark = [pytest.mark.gpu, missing]

# float32: sums in float32 against float64 of values near 1, a few units in the last place.
# Two-byte types: inputs are equal on both sides; what is left is the rounding of the softmax
# weights and of the output to 8 (11) bits, by a share of each vector's length.
BOUND = {torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 1.3e-3}


def sizes_for(dtype, dim):
    """The device's own, but split often: short contexts then have several parts, too."""
    own = tuning.sizes(DEVICE, dtype, dim)
    return own._replace(least_split=2 * own.cells, parts=4, wide_from=64, wide_parts=2)


def compare(slices, *, heads=4, kv_heads=1, k_dim=32, v_dim=None, dtype=torch.float32,
            window=None, **options):  # fmt: skip
    q, k, v = inputs(slices, heads=heads, kv_heads=kv_heads, k_dim=k_dim, v_dim=v_dim,
                     dtype=dtype, device=DEVICE)  # fmt: skip
    plan = plan_tiles(slices, window=window)
    sizes = sizes_for(dtype, max(k_dim, v_dim or k_dim))
    got = gpu.attend(q, k, v, plan, scale=k_dim**-0.5, sizes=sizes, **options)
    want = reference.attend(q, k, v, plan, scale=k_dim**-0.5, **options)
    assert got.dtype == dtype and got.shape == want.shape
    if dtype == torch.float32:
        torch.testing.assert_close(got.double(), want, rtol=0, atol=BOUND[dtype])
    else:
        assert relative_error(got, want) <= BOUND[dtype]


def layout(num_rows, context, num_runs=1):
    """One slice whose runs lie in the pool in reverse order, with a cell between them."""
    total = num_rows + context
    size = -(-total // num_runs)
    lengths = [min(size, total - i * size) for i in range(num_runs) if total > i * size]
    starts = itertools.accumulate([n + 1 for n in reversed(lengths)], initial=1)
    spans = list(zip(list(starts), reversed(lengths), strict=False))
    return SliceRows(0, num_rows, context, consecutive(*reversed(spans)))


# Four branches of one trunk; one that leaves it early, and a branch of a branch.
TRUNK = (10, 100)
BRANCHES = [
    SliceRows(0, 3, 100, consecutive(TRUNK, (200, 3))),
    SliceRows(3, 1, 104, consecutive(TRUNK, (210, 5))),
    SliceRows(4, 2, 61, consecutive((10, 61), (220, 2))),
    SliceRows(6, 4, 103, consecutive(TRUNK, (200, 3), (230, 4))),
]


@pytest.mark.parametrize(
    ("rows", "context", "runs"),
    [
        (1, 0, 1), (1, 30, 1), (1, 31, 1), (1, 32, 1), (1, 63, 3), (1, 199, 5), (2, 63, 1),
        (3, 127, 2), (4, 12, 1), (5, 60, 1), (15, 1, 3), (16, 16, 1), (17, 46, 4), (37, 30, 5),
    ],
    ids=lambda n: str(n),
)  # fmt: skip
def test_lengths_and_runs(rows, context, runs):
    compare([layout(rows, context, runs)])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 2), (3, 1), (8, 2), (8, 1), (71, 1)])
def test_head_layouts(heads, kv_heads):
    compare([layout(2, 40, 2)], heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize(
    ("k_dim", "v_dim"), [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (48, 32), (32, 80)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "f32"])
def test_head_dims(k_dim, v_dim, dtype):
    compare([layout(3, 50, 2)], k_dim=k_dim, v_dim=v_dim, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_two_byte_types(dtype):
    compare(BRANCHES, dtype=dtype, k_dim=64)


@pytest.mark.parametrize("window", [1, 5, 16, 40, 1000])
def test_windows(window):
    compare([layout(1, 130, 3)], window=window)
    compare([layout(9, 70, 2)], window=window)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_branches_share_runs(window, heads, kv_heads):
    compare(BRANCHES, window=window, heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize("window", [None, 5, 60])
def test_rows_that_left_a_window_are_not_read(window):
    """Positions 10 .. 90 have no cells; what follows keeps its positions."""
    slices = [
        SliceRows(0, 4, 150, (Run(3, 10, 0), Run(20, 64, 90))),
        SliceRows(4, 3, 150, (Run(3, 10, 0), Run(20, 60, 90), Run(90, 3, 150))),
    ]
    compare(slices, window=window)


def test_more_pieces_than_a_unit_holds():
    runs = [Run(2 * i, 1, i) for i in range(20)]  # every cell a run of its own
    compare([SliceRows(0, 2, 18, tuple(runs))])


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("options", [
    {"softcap": 3.0}, {"sinks": torch.linspace(-2, 3, 4)},
    {"softcap": 3.0, "sinks": torch.linspace(-2, 3, 4)},
], ids=["softcap", "sinks", "both"])  # fmt: skip
def test_softcap_and_sinks(options, window):
    if "sinks" in options:
        options = {**options, "sinks": options["sinks"].to(DEVICE)}
    compare([layout(3, 90, 2)], window=window, **options)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's exp2, to inf
def test_scores_far_apart_do_not_overflow():
    item = layout(1, 99)
    q, k, v = inputs([item], heads=2, kv_heads=1, k_dim=32, device=DEVICE)
    plan = plan_tiles([item])
    for softcap in (None, 50.0):
        got = gpu.attend(q * 100, k * 100, v, plan, scale=1.0, softcap=softcap)
        want = reference.attend(q * 100, k * 100, v, plan, scale=1.0, softcap=softcap)
        # Scores reach 1e5, where float32 has steps of 2**-7: weights move by as much.
        torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_not_a_number_is_never_swallowed(which):
    item = layout(1, 79)
    q, k, v = inputs([item], heads=2, kv_heads=1, k_dim=32, device=DEVICE)
    {"q": q[0, 0], "k": k[0, 45], "v": v[0, 45]}[which][5] = torch.nan
    out = gpu.attend(q, k, v, plan_tiles([item]), scale=0.2)
    assert bool(torch.isnan(out).any())


@pytest.mark.parametrize(
    ("dtype", "window"), [(torch.float32, 70), (torch.bfloat16, None)], ids=["f32-70", "bf16"]
)
def test_a_row_does_not_depend_on_who_else_is_in_the_step(dtype, window):
    """Alone, with branches that leave its cells at odd places, and beside a wide slice."""
    trunk = (0, 150)
    alone = SliceRows(0, 2, 150, consecutive(trunk, (200, 2)))
    others = [
        SliceRows(2, 3, 117, consecutive((0, 117), (210, 3))),
        SliceRows(5, 9, 150, consecutive(trunk, (220, 9))),
        SliceRows(14, 5, 152, consecutive(trunk, (200, 2), (230, 5))),
        SliceRows(19, 20, 5, consecutive((240, 25))),
    ]
    q, k, v = inputs([alone, *others], heads=4, kv_heads=1, k_dim=32, dtype=dtype, device=DEVICE)
    sizes = sizes_for(dtype, 32)

    def run(slices):
        rows = sum(item.num_rows for item in slices)
        plan = plan_tiles(slices, window=window)
        return gpu.attend(q[:rows], k, v, plan, scale=0.2, sizes=sizes)[:2]

    want = run([alone])
    assert torch.equal(run([alone, others[0]]), want)
    assert torch.equal(run([alone, *others]), want)


def test_a_row_does_not_depend_on_where_its_cells_lie():
    whole = SliceRows(0, 1, 100, consecutive((0, 101)))
    apart = SliceRows(0, 1, 100, consecutive((150, 37), (200, 43), (110, 21)))
    q, k, v = inputs([whole, apart], heads=4, kv_heads=1, k_dim=32, device=DEVICE)
    for pool in (k, v):
        for run in apart.runs:
            cells = slice(run.position, run.position + run.length)
            pool[:, run.start : run.start + run.length] = pool[:, cells]
    outs = [gpu.attend(q[:1], k, v, plan_tiles([item]), scale=0.2) for item in (whole, apart)]
    assert torch.equal(*outs)


def test_rows_beyond_the_plan_come_out_as_zeros():
    item = layout(2, 40)
    q, k, v = inputs([item], heads=4, kv_heads=1, k_dim=32, device=DEVICE)
    plan = plan_tiles([item])
    padded = torch.cat([q, torch.full_like(q[:1], torch.nan)])
    out = gpu.attend(padded, k, v, plan, scale=0.2)
    assert torch.equal(out[:2], gpu.attend(q, k, v, plan, scale=0.2))
    assert not out[2].any()


def test_an_index_runs_another_step_of_its_shape():
    """As a captured graph would: the same tensors, other contents."""
    first, second = layout(2, 40), layout(2, 47, 2)
    sizes = sizes_for(torch.float32, 32)
    plans = [plan_tiles([item]) for item in (first, second)]
    index, other = (units.of(plan, 4, sizes, DEVICE, 2) for plan in plans)
    q, k, v = inputs([second], heads=4, kv_heads=1, k_dim=32, device=DEVICE)
    want = gpu.attend(q, k, v, plans[1], scale=0.2, sizes=sizes)
    before = index.buffer.data_ptr()
    index.refill(other)
    assert index.buffer.data_ptr() == before
    assert torch.equal(gpu.attend(q, k, v, plans[0], scale=0.2, sizes=sizes), want)


@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
def test_merging_partials(sinks):
    generator = torch.Generator().manual_seed(0)
    part = torch.randn(40, 3, 80, generator=generator)
    lse = torch.randn(40, 3, generator=generator) * 5
    lse[7], lse[8, 1] = -torch.inf, -torch.inf
    part[7] = torch.nan  # what saw nothing is not read
    counts = [0, 1, 16, 17, 0, 6]
    order = torch.randperm(40, generator=generator).int()
    offsets = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
    sink = torch.tensor([-1.0, 0.0, 2.0]) if sinks else None

    want = torch.zeros(6, 3, 80, dtype=torch.float64)
    total = torch.full((6, 3), -torch.inf, dtype=torch.float64)
    if sink is not None:
        total[:] = sink
    for row in range(6):
        for slot in order[offsets[row] : offsets[row + 1]].tolist():
            new = part[slot].double().nan_to_num()
            want[row], total[row] = merge(want[row], total[row], new, lse[slot].double())
    on_device = [x.to(DEVICE) for x in (part, lse, offsets, order)]
    got = gpu.merge(*on_device, 6, sinks=None if sink is None else sink.to(DEVICE))
    torch.testing.assert_close(got.double().cpu(), want, rtol=0, atol=2e-6)
    assert not got[0].any() and not got[4].any()


def test_writing_one_pool():
    pool = torch.zeros(2, 6, 3, device=DEVICE)
    values = (torch.arange(18.0) + 1).view(3, 2, 3).to(DEVICE)
    gpu.write_cells(pool, torch.tensor([4, -1, 1], device=DEVICE), values)
    assert torch.equal(pool[:, 4], values[0]) and torch.equal(pool[:, 1], values[2])
    assert not pool[:, [0, 2, 3, 5]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_writing_k_and_v(dtype):
    """From a projection's output, where q, k and v of a token lie side by side."""
    kv_heads, dim, v_dim = 3, 80, 48
    fused = torch.randn(5, kv_heads * (dim + v_dim), generator=torch.Generator().manual_seed(0))
    fused = fused.to(DEVICE, dtype)
    k, v = fused.split([kv_heads * dim, kv_heads * v_dim], dim=1)
    k, v = k.unflatten(1, (kv_heads, dim)), v.unflatten(1, (kv_heads, v_dim))
    keys = torch.full((kv_heads, 9, dim), torch.nan, dtype=dtype, device=DEVICE)
    values = torch.full((kv_heads, 9, v_dim), torch.nan, dtype=dtype, device=DEVICE)
    slots = torch.tensor([8, 0, -1, 3, 5], device=DEVICE)
    gpu.write_kv(keys, values, slots, k, v)
    kept = slots[slots >= 0]
    assert torch.equal(keys[:, kept], k[slots >= 0].transpose(0, 1))
    assert torch.equal(values[:, kept], v[slots >= 0].transpose(0, 1))
    assert bool(keys[:, [1, 2, 4, 6, 7]].isnan().all() and values[:, [1, 2, 4, 6, 7]].isnan().all())


@pytest.mark.parametrize("rotary", [64, 32, 2], ids=["whole", "half", "one-pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_rotating_and_writing(dtype, rotary):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    q, k, v = random(4, 6, 64), random(4, 3, 64), random(4, 3, 48)
    angles = torch.rand(4, rotary, generator=generator) * 6  # halves differ: both must be read
    cos, sin = angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)
    keys = torch.full((3, 9, 64), torch.nan, dtype=dtype, device=DEVICE)
    values = torch.full((3, 9, 48), torch.nan, dtype=dtype, device=DEVICE)
    slots = torch.tensor([8, 0, -1, 3], device=DEVICE)
    got = gpu.rotate_and_write(q, k, v, cos, sin, keys, values, slots)

    # One rounding of the result: 8 bits (cut off, not rounded, by the interpreter), or 24.
    bound = {"rtol": 2**-7, "atol": 1e-3} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(got, reference.rotate(q, cos, sin), **bound)
    kept = slots[slots >= 0]
    want = reference.rotate(k, cos, sin)[slots >= 0]
    torch.testing.assert_close(keys[:, kept].transpose(0, 1), want, **bound)
    assert torch.equal(values[:, kept].transpose(0, 1), v[slots >= 0])
    assert bool(keys[:, [1, 2, 4, 5, 6, 7]].isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_norms_of_heads_before_they_turn(dtype):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return (torch.randn(*shape, generator=generator) * 3).to(DEVICE, dtype)

    q, k, v = random(4, 6, 48), random(4, 3, 48), random(4, 3, 48)
    norms = random(48), random(48)
    angles = torch.rand(4, 48, generator=generator) * 6
    cos, sin = angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)
    keys, values = (torch.full((3, 9, 48), torch.nan, dtype=dtype, device=DEVICE) for _ in "kv")
    slots = torch.tensor([8, 0, -1, 3], device=DEVICE)
    got = gpu.rotate_and_write(q, k, v, cos, sin, keys, values, slots, norms, 0.1)

    # Roundings of the unit, the scaled and the turned number, each by a bit of 8, of up to 3 * 9.
    bound = {"rtol": 0, "atol": 0.5 if dtype == torch.bfloat16 else 3e-5}
    want_q, want_k = (
        reference.rotate(reference.norm(x, w, 0.1), cos, sin)
        for x, w in zip((q, k), norms, strict=True)
    )
    torch.testing.assert_close(got, want_q, **bound)
    kept = slots[slots >= 0]
    torch.testing.assert_close(keys[:, kept].transpose(0, 1), want_k[slots >= 0], **bound)
    assert torch.equal(values[:, kept].transpose(0, 1), v[slots >= 0])


@pytest.mark.parametrize("size", [1, 96, 1024, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16],
                         ids=["f32", "bf16", "f16"])  # fmt: skip
def test_a_sum_and_its_norm(dtype, size):
    generator = torch.Generator().manual_seed(size)
    x, delta, weight = (
        torch.randn(*shape, generator=generator).to(DEVICE, dtype)
        for shape in ((3, size), (3, size), (size,))
    )
    before = x.clone()
    step = {torch.float32: 2**-20, torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype]
    bound = {"rtol": step, "atol": step / 4}
    torch.testing.assert_close(gpu.norm(x, weight, 0.1), reference.norm(x, weight, 0.1), **bound)
    assert torch.equal(x, before)
    got = gpu.add_norm(x, delta, weight, 0.1)
    torch.testing.assert_close(x, before + delta, **bound)
    torch.testing.assert_close(got, reference.norm(x, weight, 0.1), **bound)
    assert gpu.norm(x[:0], weight, 0.1).shape == (0, size)


@pytest.mark.parametrize("size", [1, 96, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_gates(dtype, size):
    x = torch.randn(3, 2 * size, generator=torch.Generator().manual_seed(size)) * 4
    x[0, 0], x[1, 0] = 60.0, -60.0
    x = x.to(DEVICE, dtype)
    step = 2**-6 if dtype == torch.bfloat16 else 2**-20
    torch.testing.assert_close(gpu.gate(x), reference.gate(x), rtol=step, atol=step / 4)


@pytest.mark.parametrize("vocab", [1, 7, 4096, 9001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_scoring_rows(vocab, dtype):
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(3, vocab + 5, generator=generator) * 4).to(DEVICE, dtype)[:, :vocab]
    logits[1, : vocab // 2] = -torch.inf
    labels = torch.randint(vocab, (3, 5), generator=generator).to(DEVICE)
    labels[0, 2], labels[2, 4] = -1, vocab - 1
    got = gpu.score(logits, labels)
    want = scores.score(logits.double(), labels)
    assert torch.equal(logits.gather(1, got.tokens[:, None]), logits.amax(1, keepdim=True))
    for a, b in [(got.logprobs, want.logprobs), (got.labels, want.labels)]:
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=2e-6)
    assert gpu.score(logits).labels.shape == (3, 0)


def test_the_first_of_equal_tokens_is_picked():
    logits = torch.zeros(2, 9000, device=DEVICE)
    logits[0, [8500, 4100, 4099]] = 1.0
    assert gpu.score(logits).tokens.tolist() == [4099, 0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the logarithm of nothing
def test_a_row_of_nothing_possible_has_no_chance():
    logits = torch.full((2, 9000), -torch.inf, device=DEVICE)
    logits[1, 8999] = -3.0
    got = gpu.score(logits, torch.tensor([[8999], [8999]], device=DEVICE))
    assert got.tokens.tolist() == [0, 8999] and bool(got.logprobs[0].isnan())
    assert got.logprobs[1] == got.labels[1, 0] == 0.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN
def test_scores_show_what_is_not_a_number():
    logits = torch.zeros(1, 50, device=DEVICE)
    logits[0, 20] = torch.nan
    got = gpu.score(logits, torch.tensor([[3]], device=DEVICE))
    assert bool(got.logprobs.isnan() & got.labels.isnan())
