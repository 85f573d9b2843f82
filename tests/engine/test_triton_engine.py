"""A whole engine on the Triton kernels, held to plain transformers: on a GPU, or interpreted.

One file for both. Under ``TRITON_INTERPRET=1``, as `test_triton_engine_interpreted` runs it, every
tensor is on the CPU and the kernels' own source is interpreted; otherwise the tests carry the mark
``gpu`` and need one: ``pytest --noconftest -m gpu tests/engine/test_triton_engine.py`` does on a
machine with torch, triton, transformers and pytest.
"""

import random

import pytest
import torch
import triton

import workbench as wb
from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine import graphs
from workbench.engine.batch import Part, Step
from workbench.engine.graphs import Graphs
from workbench.engine.model import load
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)
from workbench_kernels import active, backends

INTERPRETED = triton.knobs.runtime.interpret
DEVICE = "cpu" if INTERPRETED else "cuda"
if INTERPRETED:
    pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
else:
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
    pytestmark = [pytest.mark.gpu, missing]

# Both sides compute in float32, in another order of sums; see test_truth.
BOUND = 1e-3


def run_again(self, run):
    """What a captured graph does, without one: the same code over the same tensors."""
    logits = run()
    return logits, lambda: logits.copy_(run())


@pytest.fixture(autouse=True)
def _to_triton(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(backends, "_on_cuda", lambda device: True)
        monkeypatch.setattr(Graphs, "_record", run_again)
    assert active(DEVICE) == "triton"


def engine_of(family):
    model, tokenizer = tiny_model(family)
    model.to(DEVICE)
    limits = StepLimits(tokens=24, target_ms=0, ingest_floor=4)
    return model, wb.Engine((model, tokenizer), cells=512, start=False, limits=limits)


def decoder_of(family):
    model, tokenizer = tiny_model(family)
    return load((model.to(DEVICE), tokenizer), "auto", DEVICE)[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gpt_oss"])
def test_answers_are_those_of_plain_transformers(family):
    """Rows, open and closed questions, a flash query and a fork in the rows, NaN in free cells."""
    model, engine = engine_of(family)
    with engine:
        assert engine.decoder.compiled is None
        one, two = (engine.open(name, prompt="You watch.", cells=100) for name in ("one", "two"))
        standing = one.flash("up?", choices=["up", "down"])
        answers = []
        for number in range(2):
            for session in (one, two):
                session.push(f"row {number} {'abc'[number:]}")
            poison_free_cells(engine)
            answers.append(one.ask_start("what now?", max_tokens=3))
            answers.append(two.ask_start("which one?", choices=["up", "down", "dunno"]))
            run_until_idle(engine)
            assert standing.is_fresh
            answers.append(standing.answer)
        answers.append(one.ask_start("what then?", max_tokens=2, at=wb.row(1)))
        run_until_idle(engine)
        for answer in answers:
            assert_recomputes(model, answer, BOUND)
        check_books(engine)
        if family == "gpt_oss" and not INTERPRETED:  # float32 experts: the forward waits for them
            assert engine.decoder.graphs is None
        else:
            assert len(engine.decoder.graphs) > 0 and engine.decoder.graphs.reason is None
        assert (engine.decoder.fused is not None) == (family in ("llama", "qwen3", "mistral"))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_graph_gives_the_bits_of_the_step_it_replays(family):
    """Steps of a few shapes, again and again on other tokens, cells and rows, NaN where none is."""
    decoder = decoder_of(family)
    pool = CellPool(256)
    cells = CellTensors(decoder.layers, 256, decoder.dtype, decoder.device)
    cells.fill(list(range(256)), float("nan"))
    draw = random.Random(0)
    lines = []
    for _ in range(3):
        lines.append(Sequence(pool))
        lines[-1].grow(64)
    replayed = 0
    for number in range(12):
        parts = []
        for line in lines[: 1 + number % 3]:
            ids = [draw.randrange(256) for _ in range(draw.choice((1, 3)))]
            keep = draw.sample(range(len(ids)), draw.choice((0, 1)))
            parts.append(Part(line, line.length, ids, keep))
        before = len(decoder.graphs)
        got = decoder.forward(Step.of(parts, cells, decoder.device)).clone()
        with torch.inference_mode():
            step = Step.of(parts, cells, decoder.device)
            want = decoder._launch(step)[: len(step.labels)]
        assert torch.equal(got, want) and bool(torch.isfinite(got).all())
        replayed += before == len(decoder.graphs) and before > 0
        for part in parts:
            part.sequence.length += len(part.ids)
    assert len(decoder.graphs) >= 2 and replayed >= 2


BUILDS = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3": {},
}


def steps_of(decoder):
    """Steps of a chunk, of decode rows and of questions on branches, with logits of every row."""
    pool = CellPool(300)
    cells = CellTensors(decoder.layers, 300, decoder.dtype, decoder.device)
    cells.fill(list(range(300)), float("nan"))
    first, second = Sequence(pool), Sequence(pool)
    first.grow(40)
    second.grow(20)
    draw = random.Random(1)

    def part(sequence, start, num):
        return Part(sequence, start, [draw.randrange(256) for _ in range(num)], range(num))

    yield Step.of([part(first, 0, 37)], cells, decoder.device)
    yield Step.of([part(second, 0, 5), part(first, 37, 1)], cells, decoder.device)
    branches = [first.branch(at) for at in (38, 21)]
    for branch in branches:
        branch.grow(12)
    parts = [part(branch, at, 3) for branch, at in zip(branches, (38, 21), strict=True)]
    yield Step.of([*parts, part(second, 5, 1)], cells, decoder.device)


@pytest.mark.parametrize("family", BUILDS)
def test_few_launches_give_what_the_models_own_modules_give(family):
    model, tokenizer = tiny_model(family, **BUILDS[family])
    with torch.no_grad():
        for name, weight in model.named_parameters():  # ones and zeros say little
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) / 4)
    decoder = load((model.to(DEVICE), tokenizer), "auto", DEVICE)[0]
    fused, logits = decoder.fused, []
    assert fused is not None
    for decoder.fused in (fused, None):
        with torch.inference_mode():
            rows = [decoder._launch(step)[: len(step.labels)] for step in steps_of(decoder)]
        logits.append(torch.cat(rows))
    assert logits[0].isfinite().all()
    torch.testing.assert_close(*logits, rtol=0, atol=2e-6 * float(logits[1].abs().max()) + 1e-6)


def test_joined_weights_are_held_once_and_saved_as_before(tmp_path):
    model, tokenizer = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = load((model.to(DEVICE), tokenizer), "auto", DEVICE)[0].fused
    again = load((model, tokenizer), "auto", DEVICE)[0].fused
    for mine, other in zip(first._layers, again._layers, strict=True):
        assert mine.qkv.data_ptr() == other.qkv.data_ptr()
        assert mine.gate_up.data_ptr() == other.gate_up.data_ptr()
    query = model.model.layers[1].self_attn.q_proj.weight
    assert query.data_ptr() == first._layers[1].qkv.data_ptr()
    model.save_pretrained(tmp_path)
    after = type(model).from_pretrained(tmp_path).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_other_builds_and_hooked_models_keep_their_own_code():
    for family, sizes in (("gemma2", {}), ("llama", {"mlp_bias": True})):
        model, tokenizer = tiny_model(family, **sizes)
        assert load((model.to(DEVICE), tokenizer), "auto", DEVICE)[0].fused is None
    model, tokenizer = tiny_model("llama")
    model.model.layers[1].register_forward_hook(lambda *_: None)
    assert load((model.to(DEVICE), tokenizer), "auto", DEVICE)[0].fused is None


def test_graphs_of_other_cells_are_not_used():
    decoder = decoder_of("llama")
    answers = []
    for _ in range(2):  # the second cells hold the same; the first are gone
        pool = CellPool(64)
        cells = CellTensors(decoder.layers, 64, decoder.dtype, decoder.device)
        line = Sequence(pool)
        line.grow(32)
        rows = []
        for token in (5, 6, 7, 8):
            step = Step.of([Part(line, line.length, [token], (0,))], cells, decoder.device)
            rows.append(decoder.forward(step).clone())
            line.length += 1
        assert len(decoder.graphs) == 1
        answers.append(torch.cat(rows))
        cells.fill(list(range(64)), float("nan"))
    assert torch.equal(*answers)


def test_too_many_graphs_are_given_up_together_and_captured_again(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    decoder = decoder_of("llama")
    pool = CellPool(64)
    cells = CellTensors(decoder.layers, 64, decoder.dtype, decoder.device)
    line = Sequence(pool)
    line.grow(64)
    kept = []
    for rows in (1, 1, 2, 2, 4, 4, 1, 1):  # the first of a kind is not captured
        step = Step.of([Part(line, 0, list(range(rows)), (0,))], cells, decoder.device)
        got = decoder.forward(step).clone()
        with torch.inference_mode():
            assert torch.equal(got, decoder._launch(step)[:1])
        kept.append(len(decoder.graphs))
    assert kept[-1] in (1, 2) and max(kept) <= 2


def test_a_model_that_cannot_be_captured_says_so_and_runs(monkeypatch):
    def refuse(self, run):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graphs, "_record", refuse)
    with pytest.warns(UserWarning, match="cannot be captured .*not permitted"):
        model, engine = engine_of("llama")
    with engine:
        session = engine.open("s", cells=100)
        session.push("row 1")
        answer = session.ask_start("what now?", max_tokens=6)
        run_until_idle(engine)
        assert_recomputes(model, answer, BOUND)
        assert "not permitted" in engine.decoder.graphs.reason


@pytest.mark.skipif(INTERPRETED, reason="needs the device's own memory")
def test_a_folder_opens_on_a_device_and_takes_its_memory(tmp_path):
    model, tokenizer = tiny_model("llama", hidden_size=64, head_dim=16)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with wb.Engine(tmp_path, device="cuda", dtype="float32", cells=4096) as engine:
        assert engine.device == "cuda:0" and engine.cells.k[0].is_cuda
        session = engine.open("s", cells=1000)
        session.push("some rows").wait()
        answer = session.ask("what?", max_tokens=4, timeout=120)
        assert_recomputes(engine.decoder.model, answer, BOUND)
        assert engine.bandwidth > 0
