"""Steps in one compiled call: as transformers' own modules, for every known build."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine.batch import Part, Step
from workbench.engine.compiled import Angles, CompiledSteps
from workbench.engine.model import Decoder
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, poison_free_cells, run_until_idle, tiny_model
from workbench_kernels import native
from workbench_kernels.native import layers

pytestmark = pytest.mark.skipif(not native.available(), reason=native.reason() or "available")

SIZES = {
    "hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "num_hidden_layers": 3,
}  # fmt: skip
BUILDS = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {},
}


@pytest.fixture(autouse=True)
def _all_threads(monkeypatch):
    """Steps this small would run on one thread."""
    monkeypatch.setattr(layers, "SMALL_WORK", 0)


def decoder_of(family, dtype=torch.bfloat16, **sizes):
    model, _ = tiny_model(family, dtype=dtype, **(SIZES | BUILDS.get(family, {}) | sizes))
    model.set_attn_implementation("workbench")
    return Decoder(model, family)


def logits(decoder, compiled):
    """Two sequences and branches of one of them, over several steps of all kinds of sizes."""
    decoder.compiled = compiled
    generator = torch.Generator().manual_seed(1)
    pool = CellPool(400)
    cells = CellTensors(decoder.layers, 400, decoder.dtype, "cpu")
    cells.fill(list(range(400)), float("nan"))
    first, second = Sequence(pool), Sequence(pool)
    first.grow(120)
    second.grow(40)

    def part(sequence, start, num):
        ids = torch.randint(0, decoder.vocab_size, (num,), generator=generator).tolist()
        return Part(sequence, start, ids, range(num))

    steps = [[part(first, 0, 37)], [part(first, 37, 1)], [part(second, 0, 5), part(first, 38, 20)]]
    branches = []
    for at in (58, 30):
        branch = first.branch(at)
        branch.grow(30)
        branches.append((branch, at))
    steps.append([part(branch, at, 7) for branch, at in branches] + [part(second, 5, 1)])
    steps.append([part(branch, at + 7, 1) for branch, at in branches])
    return torch.cat([decoder.forward(Step.of(parts, cells, "cpu")) for parts in steps])


@pytest.mark.parametrize("family", BUILDS)
def test_every_known_build_gives_what_its_own_modules_give(family):
    decoder = decoder_of(family)
    compiled = decoder.compiled
    assert compiled is not None
    own = logits(decoder, None)
    got = logits(decoder, compiled)
    exact = logits(decoder_of(family, torch.float32), None)
    assert torch.isfinite(got).all()
    # Both round at the same places; only sums are taken in another order.
    assert (got - own).abs().mean() < 0.1 * (own - exact).abs().mean()
    assert (got - exact).abs().max() <= 1.5 * (own - exact).abs().max()


def test_a_row_is_computed_alike_among_few_rows_and_among_many():
    decoder = decoder_of("llama")
    pool, num = CellPool(300), 50
    cells = CellTensors(decoder.layers, 300, decoder.dtype, "cpu")
    trunk = Sequence(pool)
    trunk.grow(num)
    ids = list(range(num))
    decoder.forward(Step.of([Part(trunk, 0, ids)], cells, "cpu"))
    outs = []
    for others in (1, 3, 12, 31):  # with others, the trunk is a tile of its own
        parts = []
        for i in range(others + 1):
            branch = trunk.branch(num)
            branch.grow(4)
            parts.append(Part(branch, num, [7 + i, 9], [1]))
        outs.append(decoder.forward(Step.of(parts, cells, "cpu"))[0])
        for part in parts:
            part.sequence.drop()
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_answers_of_an_engine_recompute(make_engine):
    engine = make_engine(model=tiny_model("qwen3", dtype=torch.bfloat16, **SIZES), start=False)
    assert engine.decoder.compiled is not None
    session = engine.open("s", prompt="You watch.", cells=300)
    answers = []
    for i in range(8):
        session.push(f"row {i}: {'abcdefgh'[i:]}")
        answers.append(session.ask_start("what?", max_tokens=6))
    run_until_idle(engine)
    for answer in answers:
        assert_recomputes(engine.decoder.model, answer, 0.3)


def chances(make_engine, family, dtype, compiled):
    """Log-chances of choices asked of sessions of all kinds: windows, forks, an earlier moment."""
    model = tiny_model(family, dtype=dtype, **(SIZES | BUILDS[family]))
    limits = StepLimits(tokens=48)
    engine = make_engine(model=model, start=False, cells=4096, limits=limits)
    if not compiled:
        engine.decoder.compiled = None
    assert (engine.decoder.compiled is not None) == compiled
    windows = {
        "rebuild": {"cells": 150, "window": 60}, "evict": {"cells": 120}, "error": {"cells": 300},
    }  # fmt: skip
    sessions = [
        engine.open(how, prompt="You watch.", overflow=how, **options)
        for how, options in windows.items()
    ]
    answers = []
    for i in range(20):
        for session in sessions:
            session.push(f"{i}: {'abcdefghij'[i % 7 :]}")
            if i % 4 == 3:
                answers.append(session.ask_start("which?", choices=["up", "down", "neither"]))
        for _ in range(i % 3):
            engine.step()
        if i == 9:
            run_until_idle(engine)
            sessions.append(sessions[2].fork("fork"))
        poison_free_cells(engine)
    run_until_idle(engine)
    answers.append(sessions[2].ask_start("which?", choices=["up", "down"], at=5))
    run_until_idle(engine)
    assert engine.stats().rebuilds and sessions[1].ingest.sequence.gap
    return torch.tensor([math.log(p) for answer in answers for p in answer.probabilities.values()])


@pytest.mark.parametrize("family", BUILDS)
def test_engines_of_either_kind_choose_with_the_same_chances(make_engine, family):
    got = chances(make_engine, family, torch.bfloat16, True)
    own = chances(make_engine, family, torch.bfloat16, False)
    exact = chances(make_engine, family, torch.float32, False)
    assert torch.isfinite(got).all() and len(got) > 50
    rounding = (own - exact).abs()
    assert (got - own).abs().mean() < 0.1 * rounding.mean()
    assert (got - exact).abs().max() <= 1.5 * rounding.max()


def test_a_row_of_a_long_step_is_computed_as_in_short_ones():
    decoder = decoder_of("llama")
    num = 300  # two blocks of 128 rows and a part
    ids = torch.randint(0, decoder.vocab_size, (num,), generator=torch.Generator().manual_seed(2))
    outs = []
    for lengths in ([num], [100, 100, 100], [1, 128, 129, 42]):
        pool = CellPool(num)
        cells = CellTensors(decoder.layers, num, decoder.dtype, "cpu")
        cells.fill(list(range(num)), float("nan"))
        sequence = Sequence(pool)
        sequence.grow(num)
        parts, at = [], 0
        for length in lengths:
            part = Part(sequence, at, ids[at : at + length].tolist(), range(length))
            parts.append(decoder.forward(Step.of([part], cells, "cpu")))
            at += length
        outs.append(torch.cat(parts))
    assert bool(outs[0].isfinite().all())
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_models_of_other_builds_stay_with_transformers():
    assert decoder_of("llama", torch.float32).compiled is None
    assert decoder_of("gemma2").compiled is None
    assert decoder_of("llama", mlp_bias=True).compiled is None
    assert decoder_of("llama", hidden_act="gelu").compiled is None
    assert decoder_of("llama", head_dim=16).compiled is None  # not a multiple of 32


def test_a_model_with_something_attached_keeps_its_own_code():
    model, _ = tiny_model("llama", dtype=torch.bfloat16, **SIZES)
    model.set_attn_implementation("workbench")
    seen = []
    model.model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    decoder = Decoder(model, "hooked")
    assert decoder.compiled is None and seen
    assert CompiledSteps.of(model, decoder.layers) is None


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_angles_are_those_of_the_models_own_module_at_any_position(kind):
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, head_dim=32, max_position_embeddings=256,
        rope_parameters=rope,
    )  # fmt: skip
    angles = Angles(LlamaRotaryEmbedding(config))
    x = torch.zeros(2, 64, dtype=torch.bfloat16)
    for positions in ([0, 7], [4095, 4096], [3, 20_000]):  # before, at and far past the first table
        at = torch.tensor(positions)
        expected = LlamaRotaryEmbedding(config)(x[None], at[None])
        for got, right in zip(angles.of(x, at), expected, strict=True):
            assert got.dtype == torch.bfloat16
            assert torch.equal(got, right[0])


def test_small_steps_on_one_thread_give_the_bits_of_all(monkeypatch):
    decoder = decoder_of("llama")
    want = logits(decoder, decoder.compiled)
    monkeypatch.setattr(layers, "SMALL_WORK", 10**12)
    assert torch.equal(logits(decoder, decoder.compiled), want)
