"""The least an answer can take: bytes from the model's own shapes, at a measured bandwidth."""

import pytest
import torch

from workbench.engine.floor import Floor, _stretches, weights_bandwidth


def test_an_engine_knows_what_it_must_read(engine):
    model = engine.decoder.model
    kept = sum(w.nbytes for w in model.parameters()) - model.get_input_embeddings().weight.nbytes
    assert engine.floor == Floor(kept, engine.decoder.bytes_per_cell)


def test_a_floor_grows_with_context_and_with_every_forward(engine):
    engine.__dict__["bandwidth"] = 1e9
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


def test_weights_that_lie_side_by_side_are_read_as_one():
    arena = torch.arange(4_000, dtype=torch.bfloat16)
    weights = [arena[2_000:3_000], arena[0:1_000].view(10, 100), arena[1_010:2_000]]
    apart = [arena[3_600:3_900], torch.ones(7, 2)]
    found = _stretches([*weights, *apart])
    assert sorted(part.nbytes for part in found) == [56, 600, 6_000]
    joined = max(found, key=lambda part: part.nbytes)
    assert torch.equal(joined.view(torch.bfloat16), arena[:3_000])
    assert weights_bandwidth(weights) > 0
