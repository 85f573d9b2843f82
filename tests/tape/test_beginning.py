"""What the weights begin as: an untrained model already looks back and copies what came next."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.tape.beginning import begin
from workbench.tape.recipe import Shape
from workbench.tape.train import make_model

TOKENS = 20  # about a row


@pytest.fixture(scope="module")
def begun(tokenizer):
    return make_model(Shape(), tokenizer, seed=3)


def attention(model, ids):
    """Softmax weights [layers, heads, tokens, tokens] of one row of tokens."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        made = model(input_ids=ids[None], output_attentions=True)
    model.set_attn_implementation("branching")
    return torch.stack([weights[0] for weights in made.attentions])


def drawn(model, number, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(model.config.vocab_size, generator=generator)[:number]


def test_two_heads_look_back_one_token_and_two(begun):
    first = attention(begun, drawn(begun, TOKENS, 1))[0]
    at = torch.arange(4, TOKENS)
    assert first[0, at, at - 1].min() > 0.6
    assert first[1, at, at - 2].min() > 0.6


def test_heads_find_what_came_after_this_token(begun):
    """The second time through, the place after the first time weighs most."""
    once = drawn(begun, TOKENS, 2)
    seen = attention(begun, torch.cat([once, once]))
    at = torch.arange(TOKENS, 2 * TOKENS - 1)
    found = (seen[:, 0].argmax(-1)[:, at] == at - TOKENS + 1).float().mean(1)
    assert found[1] > 0.6 and found[3] > 0.3, found
    assert max(found[[0, 2, 4, 5]]) < 0.2  # these were drawn


def test_the_copied_token_is_likelier_than_without(begun):
    """Its logit rises against the mean once the sequence repeats, before any training."""
    once = drawn(begun, TOKENS, 4)
    with torch.no_grad():
        begun.set_attn_implementation("eager")
        twice = begun(input_ids=torch.cat([once, once])[None]).logits[0]
        begun.set_attn_implementation("branching")
    first, second = (
        (rows := twice[start : start + TOKENS - 1])[torch.arange(TOKENS - 1), once[1:]]
        - rows.mean(-1)
        for start in (0, TOKENS)
    )
    assert (second > first).float().mean() > 0.8


def test_the_beginning_is_a_function_of_the_seed(tokenizer):
    shape = Shape(dim=32, layers=2, heads=4, kv_heads=2, hidden=64)
    one, same, other = (make_model(shape, tokenizer, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert all(torch.isfinite(p).all() for p in one.parameters())


@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 4, 2), (4, 2, 1)])
def test_shapes_without_room_are_refused(shape):
    heads, shared, layers = shape
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20, hidden_size=32, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=shared,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match="expected 2 layers and 4 heads"):
        begin(model, 0)
