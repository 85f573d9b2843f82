"""A whole engine on the Triton kernels, held to plain transformers: on a GPU, or interpreted.

One file for both. Under ``TRITON_INTERPRET=1``, as `test_triton_engine_interpreted` runs it, every
tensor is on the CPU and the kernels' own source is interpreted; otherwise the tests carry the mark
``gpu`` and need one: ``pytest --noconftest -m gpu tests/engine/test_triton_engine.py`` does on a
machine with torch, triton, transformers and pytest.
"""

import pytest
import torch
import triton

import workbench as wb
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


@pytest.fixture(autouse=True)
def _to_triton(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(backends, "_on_cuda", lambda device: True)
    assert active(DEVICE) == "triton"


def engine_of(family):
    model, tokenizer = tiny_model(family)
    model.to(DEVICE)
    limits = StepLimits(tokens=24, target_ms=0, ingest_floor=4)
    return model, wb.Engine((model, tokenizer), cells=512, start=False, limits=limits)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gpt_oss"])
def test_answers_are_those_of_plain_transformers(family):
    """Rows, open and closed questions, a flash query and a fork in the rows, NaN in free cells."""
    model, engine = engine_of(family)
    with engine:
        assert engine.decoder.short is None
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
