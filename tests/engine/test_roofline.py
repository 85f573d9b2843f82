"""The least an answer can take where arithmetic counts too."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from workbench.engine.floor import Floor
from workbench.engine.roofline import Arithmetic, Roofline

SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "vocab_size": 64,
}  # fmt: skip


def counted(model, context, tokens):
    """Multiplications and additions that torch itself counts for a forward after a cache."""
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(1, context, dtype=torch.long)
    cache = model(ids, use_cache=True).past_key_values
    with FlopCounterMode(display=False) as counter:
        model(ids[:, :tokens], past_key_values=cache, logits_to_keep=1)
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts():
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="eager")).eval()
    arithmetic = Arithmetic.of(model)
    with torch.inference_mode():
        assert arithmetic.flops(100, 1) == counted(model, 100, 1)
        # Torch multiplies what a mask hides too; of 7 tokens, 21 pairs in each layer and head.
        hidden = 21 * 2 * 4 * 2 * 2 * 8
        assert arithmetic.flops(100, 7) == counted(model, 100, 7) - hidden


def test_windows_and_tied_heads():
    tied = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    loose = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert Arithmetic.of(tied) == Arithmetic.of(loose)
    kinds = ["sliding_attention", "full_attention"]
    config = MistralConfig(**SHAPE, sliding_window=10, layer_types=kinds)
    arithmetic = Arithmetic.of(MistralForCausalLM(config))
    each = 2 * 4 * (8 + 8)
    assert arithmetic.seen == ((10, each), (None, each))
    own = 2 * arithmetic.token + arithmetic.head
    assert arithmetic.flops(8, 2) == own + each * (9 + 10) + each * (9 + 10)
    assert arithmetic.flops(50, 2) == own + each * (10 + 10) + each * (51 + 52)


def test_each_forward_takes_the_longer_of_both():
    floor = Floor(weight_bytes=1_000, kv_bytes_per_token=10)
    arithmetic = Arithmetic(token=100, head=50, seen=((None, 1),))
    slow_memory = Roofline(floor, arithmetic, bandwidth=1e3, flops_per_s=1e12)
    assert slow_memory.ms(100, 16, 3) == pytest.approx(floor.ms(100, 16, 3, 1e3))
    slow_sums = Roofline(floor, arithmetic, bandwidth=1e12, flops_per_s=1e3)
    first = 16 * 100 + 50 + sum(range(101, 117))
    second = 100 + 50 + 117
    assert slow_sums.ms(100, 16, 2) == pytest.approx(first + second)
    # The first forward waits for its arithmetic, the second for memory.
    both = Roofline(floor, arithmetic, bandwidth=1e3, flops_per_s=1e3)
    assert both.ms(100, 16, 2) == pytest.approx(first + floor.bytes_read(116, 1, 1))
