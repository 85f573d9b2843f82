"""Packed products: the same function, the same weights, once in memory."""

import copy

import pytest
import torch
from torch import nn

from workbench.engine.linear import PackedEmbedding, PackedLinear, pack
from workbench.testing import tiny_model
from workbench_kernels import native

pytestmark = pytest.mark.skipif(not native.available(), reason=native.reason() or "available")


@pytest.mark.parametrize("rows", [1, 4, 5, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same(rows, bias):
    model = nn.Sequential(nn.Linear(64, 50, bias=bias).to(torch.bfloat16))
    x = torch.randn(1, rows, 64).to(torch.bfloat16)
    with torch.inference_mode():
        want, weight = model(x), model[0].weight
        assert pack(model) == 1 and type(model[0]) is PackedLinear
        got = model(x)
    # Each side rounds a float32 sum once to 8 bits.
    torch.testing.assert_close(got, want, rtol=2**-7, atol=2**-9)
    assert torch.equal(model[0].weight, weight)


def test_what_does_not_fit_is_left_alone():
    layers = nn.Sequential(nn.Linear(64, 8), nn.Linear(30, 8).to(torch.bfloat16))
    assert pack(layers) == 0
    assert all(type(layer) is nn.Linear for layer in layers)


def test_what_somebody_has_attached_something_to_is_left_alone():
    model = nn.Sequential(*(nn.Linear(32, 32).to(torch.bfloat16) for _ in range(3)))
    model[0].register_forward_hook(lambda module, args, out: out * 0)
    model[1].forward = lambda x: x
    assert pack(model) == 1
    assert [type(m) for m in model] == [nn.Linear, nn.Linear, PackedLinear]
    assert not model[0](torch.ones(1, 32, dtype=torch.bfloat16)).any()


def test_another_dtype_is_computed_from_the_same_weights():
    model = nn.Sequential(nn.Linear(32, 6).to(torch.bfloat16))
    weight, x = model[0].weight.detach().float(), torch.randn(3, 32)
    pack(model)
    model[0].bias.data.zero_()
    model[0].bias.data = model[0].bias.data.float()
    torch.testing.assert_close(model[0](x), x @ weight.T)


def test_a_packed_layer_that_is_moved_computes_with_torch():
    model = nn.Sequential(nn.Linear(32, 6).to(torch.bfloat16))
    pack(model)
    assert model.to("meta")(torch.empty(3, 32, dtype=torch.bfloat16, device="meta")).shape == (3, 6)


class Tied(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embed, self.head = embedding, nn.Linear(64, 50, bias=False)
        self.to(torch.bfloat16)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def test_a_tied_embedding_reads_the_packed_weights():
    model, ids = Tied(nn.Embedding(50, 64)), torch.tensor([[0, 17, 49], [31, 32, 1]])
    want, weight = model.embed(ids), model.head.weight.detach().clone()
    assert pack(model) == 1 and type(model.embed) is PackedEmbedding
    assert model.embed.packed is model.head.packed
    assert len(list(model.parameters())) == 1
    assert torch.equal(model.embed(ids), want)
    assert torch.equal(model.embed(ids[0, 1]), want[0, 1])
    assert torch.equal(model.embed.weight, weight)
    assert model(ids).shape == (2, 3, 50)


def test_an_embedding_of_another_kind_keeps_weights_of_its_own():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 8

    model, ids = Tied(Scaled(50, 64)), torch.tensor([[4, 5]])
    want = model.embed(ids)
    pack(model)
    assert type(model.embed) is Scaled and torch.equal(model.embed(ids), want)


def test_a_packed_model_saves_what_it_was_loaded_from(tmp_path):
    model, _ = tiny_model("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=96)
    before = copy.deepcopy(model.state_dict())
    assert pack(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_packed_weights_lie_side_by_side():
    model, _ = tiny_model("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=96)
    pack(model)
    packed = [p for name, p in model.named_parameters() if "packed" in name]
    assert len({p.untyped_storage().data_ptr() for p in packed}) == 1
    assert packed[0].untyped_storage().nbytes() == sum(p.nbytes for p in packed)
