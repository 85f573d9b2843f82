"""Which backend a tensor goes to, and what the Triton kernels refuse: no GPU needed, none used."""

import subprocess
import sys

import pytest
import torch

import workbench_kernels as kernels
from workbench_kernels import backends, gpu, reference
from workbench_kernels.gpu import checks


def test_the_device_names_the_backend():
    assert kernels.active("cuda") == kernels.active(torch.device("cuda", 1)) == "triton"
    assert kernels.active() == kernels.active("cpu") and kernels.active().startswith("cpu")
    with pytest.raises(ValueError, match="expected tensors on cpu or cuda, .* got mps"):
        kernels.active("mps")


def test_devices_without_kernels_are_refused():
    q = torch.zeros(1, 1, 16, device="meta")
    plan = kernels.plan_tiles([kernels.SliceRows(0, 1, 0, (kernels.Run(0, 1, 0),))])
    for call in (
        lambda: kernels.attend(q, q, q, plan, scale=1.0),
        lambda: kernels.write_cells(q, q, q),
        lambda: kernels.write_kv(q, q, q, q, q),
        lambda: kernels.score(q[0]),
        lambda: kernels.norm(q[0], q[0, 0], 0.0),
        lambda: kernels.add_norm(q[0], q[0], q[0, 0], 0.0),
        lambda: kernels.gate(q[0]),
    ):
        with pytest.raises(ValueError, match="got meta"):
            call()


def test_importing_loads_neither_triton_nor_a_driver():
    """CPU machines need no triton; with it, defining the kernels needs no device."""
    code = (
        "import sys, workbench_kernels\n"
        "assert 'triton' not in sys.modules\n"
        "import workbench_kernels.gpu, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "sys.modules.pop('workbench_kernels.gpu'); sys.modules['triton'] = None\n"
        "for name in [n for n in sys.modules if n.startswith('workbench_kernels.gpu')]:\n"
        "    del sys.modules[name]\n"
        "try: workbench_kernels.backends._gpu()\n"
        "except RuntimeError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == (
        "CUDA tensors need triton>=3.6, which is not installed: pip install 'triton>=3.6'\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 9, 32, dtype=torch.float64)}, "one dtype"),
        ({"q": torch.zeros(3, 5, 32)}, "multiple of the KV heads; got 5 and 2"),
        ({"v": torch.zeros(2, 8, 32)}, "v .kv_heads, cells, v_dim"),
        ({"q": torch.zeros(3, 4, 48)}, "k .kv_heads, cells, k_dim"),
        ({"v": torch.zeros(2, 9, 300)}, "at most 256; got 32 and 300"),
        ({"q": torch.zeros(3, 4, 64)[..., ::2]}, "contiguous along its last axis"),
        ({"k": torch.zeros(2, 9, 64)[..., ::2]}, "k with each head's cells one after the other"),
        ({"k": torch.zeros(2, 9, 32, device="meta")}, "on one device"),
    ],
)
def test_what_a_layer_must_be(change, message):
    tensors = {"q": torch.zeros(3, 4, 32), "k": torch.zeros(2, 9, 32), "v": torch.zeros(2, 9, 32)}
    checks.layer(**tensors)
    with pytest.raises(ValueError, match=message):
        checks.layer(**tensors | change)


def test_what_writing_refuses():
    pool, slots, new = torch.zeros(2, 9, 32), torch.tensor([1, 2]), torch.zeros(2, 2, 32)
    for bad, message in [
        ((pool, slots.int(), new), "slots int64"),
        ((pool, slots, new[:1]), r"\[2, 2, 32\] to store; got \[1, 2, 32\]"),
        ((pool.transpose(1, 2), slots, new), "the pool with each head's cells"),
    ]:
        with pytest.raises(ValueError, match=message):
            gpu.write_cells(*bad)
    with pytest.raises(ValueError, match="cos and sin"):
        gpu.rotate_and_write(new, new, new, *[torch.zeros(2, 33)] * 2, pool, pool, slots)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: gpu.norm(x.T, w, 0.0), r"x .rows, size., contiguous.*strides \(1, 8\)"),
        (lambda x, w: gpu.norm(x.double(), w, 0.0), "got torch.float64"),
        (lambda x, w: gpu.norm(x, w[:4], 0.0), r"a weight \[8\] on cpu; got \[4\]"),
        (lambda x, w: gpu.add_norm(x, x[:1], w, 0.0), r"delta like x; got torch.float32 \[1, 8\]"),
        (lambda x, w: gpu.gate(x[:, :7].contiguous()), "two halves; got 7 numbers"),
        (lambda x, w: gpu.norm(torch.zeros(1, 70_000), w, 0.0), "at most 65536; got 70000"),
    ],
)
def test_what_norms_and_gates_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 8), torch.zeros(8))


def test_norms_that_do_not_fit_the_heads_are_refused():
    pool, new, turn = torch.zeros(2, 9, 32), torch.zeros(2, 2, 32), torch.zeros(2, 16)
    with pytest.raises(ValueError, match=r"norms \[32\] of heads that turn whole; got .*, 16 turn"):
        gpu.rotate_and_write(new, new, new, turn, turn, pool, pool, torch.tensor([1, 2]),
                             (pool[0, 0], pool[0, 0]))  # fmt: skip


def test_writing_k_and_v_on_a_cpu():
    keys, values = torch.zeros(2, 6, 3), torch.zeros(2, 6, 4)
    k, v = torch.randn(2, 2, 3), torch.randn(2, 2, 4)
    kernels.write_kv(keys, values, torch.tensor([4, 1]), k, v)
    assert torch.equal(keys[:, [4, 1]], k.transpose(0, 1)) and not keys[:, [0, 2, 3, 5]].any()
    assert torch.equal(values[:, [4, 1]], v.transpose(0, 1)) and not values[:, [0, 2, 3, 5]].any()


def test_rotating_on_a_cpu():
    """A quarter turn takes (low, high) to (-high, low), in the rotary part alone."""
    q, k, v = torch.randn(2, 4, 6), torch.randn(2, 2, 6), torch.randn(2, 2, 6)
    cos, sin = torch.zeros(2, 4), torch.ones(2, 4)
    keys, values = torch.zeros(2, 5, 6), torch.zeros(2, 5, 6)
    slots = torch.tensor([3, 0])
    got = kernels.rotate_and_write(q, k, v, cos, sin, keys, values, slots)
    order, sign = [2, 3, 0, 1, 4, 5], torch.tensor([-1, -1, 1, 1, 1, 1])
    assert torch.equal(got, q[..., order] * sign)
    assert torch.equal(keys[:, slots].transpose(0, 1), k[..., order] * sign)
    assert torch.equal(values[:, slots].transpose(0, 1), v)


def test_norms_and_gates_on_a_cpu():
    x, delta = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    weight = torch.tensor([1.0, 2.0])
    root = (12.5 + 0.5) ** 0.5
    torch.testing.assert_close(
        kernels.norm(x, weight, 0.5), torch.tensor([[3 / root, 8 / root], [0.0, 0.0]])
    )
    got = kernels.add_norm(x, delta, weight, 0.0)
    assert torch.equal(x, torch.tensor([[3.0, 4.0], [1.0, -1.0]]))
    torch.testing.assert_close(got[1], torch.tensor([1.0, -2.0]))
    rows = torch.tensor([[1.0, -2.0, 5.0, 3.0]])
    want = torch.nn.functional.silu(rows[:, :2]) * rows[:, 2:]
    torch.testing.assert_close(kernels.gate(rows), want)


def test_norms_are_those_of_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    norm = llama.LlamaRMSNorm(16, eps=1e-5)
    norm.weight.data = torch.randn(16)
    x = torch.randn(3, 16)
    torch.testing.assert_close(reference.norm(x, norm.weight.data, 1e-5), norm(x).detach())


def test_rotation_is_that_of_transformers():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    x, angles = torch.randn(5, 3, 16), torch.rand(5, 8).repeat(1, 2) * 6
    cos, sin = angles.cos(), angles.sin()
    want, _ = llama.apply_rotary_pos_emb(
        x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos[None], sin[None]
    )
    got = reference.rotate(x, cos, sin)
    torch.testing.assert_close(got, want[0].transpose(0, 1), rtol=0, atol=1e-6)


def test_scoring_on_a_cpu():
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -torch.inf]])
    got = kernels.score(logits, torch.tensor([[2, -1], [0, 2]]))
    want = torch.log_softmax(logits, -1)
    assert got.tokens.tolist() == [1, 0]
    assert torch.equal(got.logprobs, want[[0, 1], [1, 0]])
    assert torch.equal(
        got.labels, torch.tensor([[want[0, 2], -torch.inf], [want[1, 0], -torch.inf]])
    )
    assert backends.score(logits).labels.shape == (2, 0)
