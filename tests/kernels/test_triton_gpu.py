"""The Triton kernels on a GPU at the sizes they are made for; see also `test_triton_kernels`.

Runs where there are torch, triton and pytest, with neither `workbench` nor its conftest:
``PYTHONPATH=kernels pytest --noconftest -m gpu tests/kernels``.
"""

import pytest
import torch

from workbench_kernels import active, attend, gpu, plan_tiles, reference, scores, tuning, write_kv
from workbench_kernels.gpu import units
from workbench_kernels.testing import branches, inputs, relative_error
from workbench_kernels.tiles import Run, SliceRows, consecutive

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

DEVICE = torch.device("cuda")
BF16 = torch.bfloat16
# Inputs are equal on both sides; what is left is the rounding of the softmax weights and of the
# output to 8 bits, of each row and head by a share of its own length.
BOUND = 1e-2


def step(slices, *, dim=128, heads=32, kv_heads=8, dtype=BF16):
    return inputs(slices, heads=heads, kv_heads=kv_heads, k_dim=dim, dtype=dtype, device=DEVICE)


def check(slices, *, window=None, dim=128, **options):
    q, k, v = step(slices, dim=dim, **options)
    got = attend(q, k, v, plan_tiles(slices, window=window), scale=dim**-0.5)
    want = reference.attend_slices(q, k, v, slices, scale=dim**-0.5, window=window)
    assert relative_error(got, want) <= BOUND


def test_the_backend_is_triton():
    assert active("cuda") == "triton"


@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize("rows", [1, 16, 67, 300])
def test_questions_and_chunks(rows, dim):
    runs = consecutive((9_000, 2_000), (100, 1), (4_000, 3_002), (12_000, rows))
    check([SliceRows(0, rows, 5_003, runs)], dim=dim)


@pytest.mark.parametrize("window", [None, 1_000])
@pytest.mark.parametrize("num", [4, 16])
def test_branches_of_one_context(num, window):
    check(branches(num, 3, 4_000), window=window)


def test_a_step_of_everything():
    """A decode row, questions on branches, a chunk with a gap before it, a stranger."""
    trunk = (0, 3_000)
    slices = [
        SliceRows(0, 1, 3_000, consecutive(trunk, (3_000, 1))),
        SliceRows(1, 16, 3_000, consecutive(trunk, (3_100, 16))),
        SliceRows(17, 200, 9_000, (Run(4_000, 64, 0), Run(4_100, 1_200, 8_000))),
        SliceRows(217, 5, 0, consecutive((6_000, 5))),
    ]
    check(slices)
    check(slices, window=700)


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_all_blocks_of_the_device_compute_the_same_bits(dim):
    slices = branches(3, 7, 2_000)
    q, k, v = step(slices, dim=dim)
    sizes = tuning.sizes(q.device, BF16, dim)
    outs = [
        gpu.attend(q, k, v, plan_tiles(slices), scale=0.1, sizes=sizes._replace(blocks=(block,)))
        for block in sizes.blocks
    ]
    for block, out in zip(sizes.blocks, outs, strict=True):
        assert torch.equal(out, outs[0]), block


@pytest.mark.parametrize("window", [None, 900])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_a_row_does_not_depend_on_who_else_is_in_the_step(dim, window):
    crowd = branches(16, 2, 5_000)
    last = crowd[-1].runs[-1].start + 2
    chunk = SliceRows(32, 300, 40, consecutive((last + 1, 340)))
    leaver = SliceRows(332, 4, 1_234, consecutive((0, 1_234), (last + 400, 4)))
    crowd += [chunk, leaver]
    q, k, v = step(crowd, dim=dim)
    many = attend(q, k, v, plan_tiles(crowd, window=window), scale=0.1)
    for item in (crowd[0], crowd[15], chunk, leaver):
        mine = slice(item.first_row, item.first_row + item.num_rows)
        plan = plan_tiles([item._replace(first_row=0)], window=window)
        assert torch.equal(attend(q[mine], k, v, plan, scale=0.1), many[mine])


def test_the_same_call_gives_the_same_bits():
    slices = branches(5, 9, 3_000)
    q, k, v = step(slices)
    first = attend(q, k, v, plan_tiles(slices), scale=0.1)
    for _ in range(5):
        assert torch.equal(attend(q, k, v, plan_tiles(slices), scale=0.1), first)


def test_a_captured_graph_runs_other_steps_of_its_shape():
    first, second = branches(3, 4, 4_000), branches(3, 4, 4_050)
    q, k, v = step(second)
    plans = [plan_tiles(slices) for slices in (first, second)]
    sizes = tuning.sizes(q.device, BF16, 128)
    index, other = (units.of(plan, 4, sizes, q.device, len(q)) for plan in plans)
    want = attend(q, k, v, plans[1], scale=0.1)
    keys, values = k.nan_to_num(), v.nan_to_num()  # the first plan reads cells the second has not
    attend(q, keys, values, plans[0], scale=0.1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(q, keys, values, plans[0], scale=0.1)
    index.refill(other)
    graph.replay()
    assert torch.equal(out, want)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_waits_for_nothing():
    slices = branches(2, 3, 1_000)
    q, k, v = step(slices)
    slots = torch.tensor([5, 6, 7, 8, 9, 10], device=DEVICE)
    new = k[:, :6].transpose(0, 1).clone()
    logits = torch.randn(6, 1_000, device=DEVICE)

    def run():
        write_kv(k, v, slots, new, new)
        out = attend(q, k, v, plan_tiles(slices), scale=0.1)
        return out, gpu.score(logits)

    run()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_writing_a_chunk():
    k, v = (torch.randn(300, 8, 128, device=DEVICE).to(BF16) for _ in range(2))
    keys = torch.full((8, 1_000, 128), torch.nan, dtype=BF16, device=DEVICE)
    values = keys.clone()
    slots = torch.randperm(1_000, device=DEVICE)[:300]
    write_kv(keys, values, slots, k, v)
    assert torch.equal(keys[:, slots], k.transpose(0, 1))
    assert torch.equal(values[:, slots], v.transpose(0, 1))
    assert int(keys.isnan().sum()) == int(values.isnan().sum()) == 700 * 8 * 128


def test_scoring_a_large_vocabulary():
    logits = (torch.randn(17, 128_256, device=DEVICE) * 5).to(BF16)
    labels = torch.randint(128_256, (17, 3), device=DEVICE)
    got, want = gpu.score(logits, labels), scores.score(logits.double(), labels)
    assert torch.equal(logits.gather(1, got.tokens[:, None]), logits.amax(1, keepdim=True))
    torch.testing.assert_close(got.logprobs.double(), want.logprobs, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(got.labels.double(), want.labels, rtol=1e-6, atol=1e-5)
