"""The least an answer can take: bytes from the model's own shapes, at a measured bandwidth."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from workbench.engine.floor import Floor, _stretches, weights_bandwidth


def test_an_engine_knows_what_it_must_read(engine):
    model = engine.decoder.model
    kept = sum(w.nbytes for w in model.parameters()) - model.get_input_embeddings().weight.nbytes
    assert engine.floor == Floor(kept, engine.decoder.bytes_per_cell)


def test_of_experts_and_of_windows_only_what_a_token_needs_counts():
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    }  # fmt: skip
    mixture = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=8, num_experts_per_tok=2))
    names = dict(mixture.named_parameters())
    experts = sum(p.nbytes for name, p in names.items() if ".experts." in name)
    others = sum(p.nbytes for p in names.values()) - experts
    table = mixture.get_input_embeddings().weight.nbytes
    assert experts > others
    assert Floor.of(mixture).weight_bytes == others - table + experts // 4
    kinds = ["sliding_attention", "full_attention"]
    sliding = MistralForCausalLM(MistralConfig(**shape, sliding_window=10, layer_types=kinds))
    floor = Floor.of(sliding)
    each = 2 * 2 * 8 * 4  # keys and values, two heads of 8 numbers
    assert (floor.kv_bytes_per_token, floor.windows) == (each, ((10, each),))
    assert floor.bytes_read(96, 4, 2) == 2 * floor.weight_bytes + each * (100 + 101 + 2 * 10)
    everywhere = MistralForCausalLM(MistralConfig(**shape, sliding_window=10))
    assert Floor.of(everywhere).windows == ((10, each),) * 2


def test_a_floor_grows_with_context_and_with_every_forward(engine):
    engine.measured_bandwidth = 1e9
    floor = engine.floor
    assert engine.floor_ms(0) == pytest.approx(floor.weight_bytes / 1e6)
    per_token = floor.kv_bytes_per_token / 1e6
    assert engine.floor_ms(1000) - engine.floor_ms(0) == pytest.approx(1000 * per_token)
    eight = 8 * engine.floor_ms(1000) + sum(range(8)) * per_token
    assert engine.floor_ms(1000, forwards=8) == pytest.approx(eight)


def test_bandwidth_is_measured_in_the_engines_own_thread(engine, monkeypatch):
    import threading

    names = []

    def measure(weights, pick):
        names.append(threading.current_thread().name)
        assert pick([3.0, 1.0, 2.0]) == 1.0  # what slows a reading is not the machine's limit
        return weights_bandwidth(weights, pick=pick)

    monkeypatch.setattr("workbench.front.weights_bandwidth", measure)
    assert engine.bandwidth > 0 and engine.bandwidth == engine.bandwidth
    assert names == ["workbench"]


def test_who_asks_for_the_bandwidth_while_the_engine_is_about_to_measure_waits_for_it(engine):
    import threading

    busy = threading.Event()
    engine.post(lambda: busy.wait(10))
    engine.post(lambda: engine.bandwidth)
    asking = threading.Thread(target=lambda: engine.floor_ms(100), daemon=True)
    asking.start()
    busy.set()
    asking.join(30)
    assert not asking.is_alive() and engine.measured_bandwidth > 0


def test_weights_that_lie_side_by_side_are_read_as_one():
    arena = torch.arange(4_000, dtype=torch.bfloat16)
    weights = [arena[2_000:3_000], arena[0:1_000].view(10, 100), arena[1_010:2_000]]
    apart = [arena[3_600:3_900], torch.ones(7, 2)]
    found = _stretches([*weights, *apart])
    assert sorted(part.nbytes for part in found) == [56, 600, 6_000]
    joined = max(found, key=lambda part: part.nbytes)
    assert torch.equal(joined.view(torch.bfloat16), arena[:3_000])
    assert weights_bandwidth(weights) > 0
