"""A session in a file comes back as it was, and nothing of it is taken on trust."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import workbench as wb
from tests.engine.test_moments import context, text
from workbench.errors import CellsExhausted, SessionExists, WorkbenchError
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    FAMILIES,
    assert_recomputes,
    check_books,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)

BOUND = 5e-5
LIMITS = StepLimits(tokens=24)


def computed(engine) -> int:
    return engine.stats().ingested_tokens + engine.stats().background_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_session_goes_on_where_it_was_in_another_engine(make_engine, family, tmp_path):
    first = make_engine(family, start=False, limits=LIMITS)
    session = first.open("s", prompt="You watch.", cells=500, max_pending=50, on_full="raise")
    session.push([text(i) for i in range(12)])
    session.push(text(12))
    run_until_idle(first)
    path = session.save(tmp_path / "s.session")
    assert path == tmp_path / "s.session" and list(tmp_path.iterdir()) == [path]
    second = make_engine(family, start=False, limits=LIMITS)
    back = second.restore(str(path))
    run_until_idle(second)
    assert computed(second) == 0  # but for the proof, which is no step
    for name in ("name", "prompt", "version", "rows", "budget", "overflow", "token_ids"):
        assert getattr(back, name) == getattr(session, name)
    assert (back.ingest.ticks.max_rows, back.ingest.ticks.on_full) == (50, "raise")
    poison_free_cells(second)
    now = back.ask_start("so?", max_tokens=3)
    early = back.ask_start("so?", choices=["up", "down"], at=5)
    back.push(text(13))
    late = back.ask_start("so?", max_tokens=3)
    run_until_idle(second)
    for answer, rows, version in ((now, 13, 2), (early, 5, 0), (late, 14, 3)):
        assert (answer.row, answer.version) == (rows, version)
        assert context(second, answer)[-1] == text(rows - 1)
        assert_recomputes(second.decoder.model, answer, BOUND)
    fork = back.fork("fork")
    fork.push("shared with nobody")
    run_until_idle(second)
    assert second.stats().shared_tokens == back.position
    check_books(second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cells_of_other_types_come_back_too(make_engine, dtype, tmp_path):
    engine = make_engine(model=tiny_model(dtype=dtype), dtype=dtype, start=False)
    session = engine.open("s", cells=200)
    session.push([text(i) for i in range(12)])
    run_until_idle(engine)
    path, before = session.save(tmp_path / "s.session"), computed(engine)
    session.close()
    back = engine.restore(path)
    run_until_idle(engine)
    assert computed(engine) == before and back.rows == 12


@pytest.mark.parametrize("overflow", ["rebuild", "evict"])
def test_a_window_comes_back_and_goes_on_moving(make_engine, overflow, tmp_path):
    engine = make_engine(start=False, cells=1024, limits=LIMITS)
    session = engine.open("s", prompt="You watch.", cells=240, overflow=overflow)
    for number in range(60 if overflow == "rebuild" else 9):
        session.push(text(number))
        run_until_idle(engine)
    rows, first = session.rows, session.ingest.first_row
    assert bool(first) == (overflow == "rebuild")
    path = session.save(tmp_path / "file")
    session.close()
    back = engine.restore(path)
    assert (back.rows, back.ingest.first_row, back.overflow) == (rows, first, overflow)
    for number in range(rows, rows + 60):
        back.push(text(number))
        run_until_idle(engine)
    answer = back.ask_start("so?", max_tokens=3)
    run_until_idle(engine)
    assert context(engine, answer)[-1] == text(rows + 59) and back.ingest.first_row > first
    if overflow == "rebuild":
        assert_recomputes(engine.decoder.model, answer, BOUND)
    else:
        with pytest.raises(WorkbenchError, match="keys that remember them"):
            back.save(tmp_path / "late")
    check_books(engine)


def test_without_cells_it_is_computed_again_and_small(make_engine, tmp_path):
    engine = make_engine(limits=LIMITS)
    session = engine.open("s", schema="iot", cells=500)
    session.push([{"sensor": "a", "value": i, "low": 0, "high": 9} for i in range(9)])
    large, small = session.save(tmp_path / "large"), session.save(tmp_path / "small", cells=False)
    assert small.stat().st_size < 8_000 < large.stat().st_size
    other = make_engine(limits=LIMITS)
    for path, tokens in ((large, 0), (small, session.position)):
        before = computed(other)
        back = other.restore(path)
        assert back.ask("so?", max_tokens=2).row == 9
        assert computed(other) - before == tokens
        back.push({"sensor": "a", "value": 3, "low": 0, "high": 9}).wait()
        with pytest.raises(WorkbenchError, match="expected"):
            back.push({"temperature": 3})
        back.close()
        other.core.prefixes.__init__()  # nothing parked is shared


def test_cells_of_another_model_are_refused_and_computed_on_demand(make_engine, tmp_path):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400)
    session.push([text(i) for i in range(12)])
    run_until_idle(engine)
    path = session.save(tmp_path / "file")
    other = make_engine(model=tiny_model(seed=1), start=False)
    with pytest.raises(WorkbenchError, match=r"not of this .* differ by 1\.\d"):
        other.restore(path)
    assert not other.sessions and other.pool.num_free == other.pool.num_cells
    back = other.restore(path, compute=True)
    answer = back.ask_start("so?", max_tokens=3)
    run_until_idle(other)
    assert_recomputes(other.decoder.model, answer, BOUND)
    with pytest.raises(WorkbenchError, match=r"expected k.0 as \(1, 8"):
        make_engine(model=tiny_model(num_key_value_heads=1), start=False).restore(path)
    double = make_engine(model=tiny_model(dtype=torch.bfloat16), dtype="bfloat16", start=False)
    with pytest.raises(WorkbenchError, match="its cells are torch.float32, this engine's are"):
        double.restore(path)


def test_one_wrong_number_in_what_is_proved_would_show(make_engine, tmp_path):
    engine = make_engine(start=False)
    session = engine.open("s", cells=400)
    session.push([text(i) for i in range(12)])
    run_until_idle(engine)
    path = session.save(tmp_path / "file")
    session.close()
    tensors = load_file(path)
    for factor in (torch.nan, 9.0, 1.01):  # the last: cells of a model that was trained on a little
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        changed["v.1"][:, -3] *= factor
        with pytest.raises(WorkbenchError, match="of the last 16 tokens differ"):
            engine.restore(_again(path, changed, tmp_path / "bad"))
    short = tensors | {"token_ids": tensors["token_ids"][:-1]}
    with pytest.raises(WorkbenchError, match="expected cells of .* tokens at most"):
        engine.restore(_again(path, short, tmp_path / "short"))
    back = engine.restore(_again(path, tensors, tmp_path / "good"))
    answer = back.ask_start("so?", max_tokens=2)
    run_until_idle(engine)
    assert_recomputes(engine.decoder.model, answer, BOUND)


def _about(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["workbench"])


def _again(path, tensors, to):
    save_file(tensors, to, {"workbench": json.dumps(_about(path))})
    return to


def test_what_is_no_such_file_is_one_clear_error(engine, tmp_path):
    session = engine.open("s", prompt="You watch.", cells=400)
    session.push(["one", "two"])
    path = session.save(tmp_path / "file")
    (tmp_path / "text").write_text("words")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    for name in ("text", "other"):
        with pytest.raises(WorkbenchError, match=r"expected a file that session\.save wrote"):
            engine.restore(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        engine.restore(tmp_path / "none")
    with pytest.raises(SessionExists):
        engine.restore(path)
    with pytest.raises(CellsExhausted, match="it begins with"):
        engine.restore(path, name="t", cells=10)
    with pytest.raises(CellsExhausted, match="can still be promised"):
        engine.restore(path, name="t", cells=1500)
    with pytest.raises(WorkbenchError, match="whole number"):
        engine.restore(path, name="t", cells="x")
    without_head = tmp_path / "older"  # as files were written before
    about = _about(path)
    del about["head"]
    save_file(load_file(path), without_head, {"workbench": json.dumps(about)})
    for change, file in (
        ({"fingerprint": "another"}, path),
        ({"head": lambda prompt: [1, 2, 3]}, without_head),
    ):
        with pytest.MonkeyPatch.context() as patch:
            for attribute, value in change.items():
                patch.setattr(engine.tokens, attribute, value)
            with pytest.raises(WorkbenchError, match="its text has other tokens"):
                engine.restore(file, name="t", compute=True)
    older = engine.restore(without_head, name="older")
    assert older.token_ids == session.token_ids
    older.close()
    with pytest.raises(IsADirectoryError):
        session.save(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file"):
        engine.restore(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        session.save(tmp_path / "nowhere" / "file")
    assert set(engine.sessions) == {"s"} and not list(tmp_path.glob("*.partial"))
    session.close()
    with pytest.raises(WorkbenchError, match="is closed"):
        session.save(path)


def test_a_full_session_comes_back_and_whole_numbers_of_any_kind_are_numbers(engine, tmp_path):
    session = engine.open("s", cells=np.int64(40), max_pending=np.int64(9))
    session.push("x" * (39 - session.position)).wait()
    assert session.position == session.budget == 40
    path = session.save(tmp_path / "file")
    session.close()
    back = engine.restore(path)
    assert back.ask("so?", max_tokens=1).row == 1 and back.budget == 40


def test_in_line_its_cells_come_from_the_file_before_anything_runs(make_engine, tmp_path):
    engine = make_engine(cells=1024, watermark=128)
    session = engine.open("s", cells=400)
    session.push([text(i) for i in range(12)])
    path = session.save(tmp_path / "file")
    bad = {name: tensor * 2 for name, tensor in load_file(path).items() if name[1] == "."}
    bad = _again(path, load_file(path) | bad, tmp_path / "bad")
    other = make_engine(cells=1024, watermark=128)
    holder = other.open("holder", cells=600)
    waiting = []
    with ThreadPoolExecutor(2) as aside:
        # The bad one first: after a good one it would share all of that one's and need none.
        for file, name in ((bad, "bad"), (path, "good")):
            waiting.append(aside.submit(other.restore, file, name=name, wait=True))
            while len(other.call(lambda: other.admission.openings)) < len(waiting):
                pass
        holder.close()
        with pytest.raises(WorkbenchError, match="of the last 16 tokens differ"):
            waiting[0].result()
        back = waiting[1].result()
    assert set(other.sessions) == {"good"} and computed(other) == 0
    assert back.ask("so?", max_tokens=1).row == 12


def test_a_template_that_tells_the_date_is_restored_on_another_day(make_engine, tmp_path):
    days = (
        "{% for m in messages %}<s>DAY{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>{% endif %}"
    )

    def engine_on(day):
        model, tokenizer = tiny_model()
        tokenizer.chat_template = days.replace("DAY", day)
        return make_engine(model=(model, tokenizer), start=False)

    engine = engine_on("9 Nov: ")
    session = engine.open("s", cells=400, overflow="rebuild", window=100)
    session.push([text(i) for i in range(5)])
    run_until_idle(engine)
    path = session.save(tmp_path / "file")
    other = engine_on("10 Nov: ")
    back = other.restore(path)
    assert back.token_ids == session.token_ids
    fork = back.fork("f", at=2)
    run_until_idle(other)
    assert fork.token_ids == session.token_ids[: len(fork.token_ids)] and fork.rows == 2
    for number in range(5, 60):  # its window moves, and keeps the head that it began with
        back.push(text(number))
        run_until_idle(other)
    assert other.tokens.text(back.token_ids).startswith("9 Nov: ")
    answer = back.ask_start("so?", max_tokens=2)
    run_until_idle(other)
    assert_recomputes(other.decoder.model, answer, BOUND)


def test_a_session_of_no_tokens_is_saved_and_restored(make_engine, tmp_path):
    engine = make_engine(start=False)
    session = engine.open("s", cells=100)
    assert session.token_ids == []
    back = engine.restore(session.save(tmp_path / "file"), name="t")
    back.push("one")
    run_until_idle(engine)
    assert back.rows == 1


def test_a_session_without_its_cells_can_be_saved_and_restored(make_engine, tmp_path):
    engine = make_engine(start=False, cells=512, watermark=128)
    first = engine.open("first", cells=300, evictable=True)
    first.push([text(i) for i in range(10)])
    run_until_idle(engine)
    second = engine.open("second", cells=300, evictable=True)
    second.push("one")
    run_until_idle(engine)
    assert not first.resident
    path = first.save(tmp_path / "file")
    first.close()
    back = engine.restore(path)
    assert not back.resident and back.rows == 10
    answer = back.ask_start("so?", max_tokens=2)
    run_until_idle(engine)
    assert context(engine, answer) == [text(i) for i in range(10)]
    assert_recomputes(engine.decoder.model, answer, BOUND)
    assert back.resident and isinstance(back, wb.Session)
