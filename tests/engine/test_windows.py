"""Windows that are rebuilt are exact after any number of wraps; evicted ones keep their books."""

import pytest
import torch

import workbench as wb
from workbench.errors import CellsExhausted, WorkbenchError
from workbench.events import Behind, Rebuilt, RowsLeft
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import (
    FAMILIES,
    assert_recomputes,
    check_books,
    plain_logits,
    poison_free_cells,
    run_until_idle,
    tiny_model,
)

BOUND = 5e-5
PROMPT = "You watch."


@pytest.fixture
def still(make_engine):
    return make_engine(start=False, cells=2048, limits=StepLimits(tokens=48))


def row(number: int) -> str:
    return f"{number}:" + "abcdefghij"[: 3 + number * 7 % 8]


def collect(engine, kind):
    seen = []
    engine.events.subscribe(lambda e: seen.append(e) if isinstance(e, kind) else None)
    return seen


def visible_text(engine, session) -> str:
    return engine.tokens.text(session.token_ids)


# Rebuild.


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_exact_over_exactly_the_window_after_many_wraps(make_engine, family):
    engine = make_engine(family, start=False, cells=1024, limits=StepLimits(tokens=24))
    session = engine.open("s", prompt=PROMPT, cells=300, overflow="rebuild", window=90)
    rebuilt, answers = collect(engine, Rebuilt), []
    for number in range(150):
        session.push(row(number))
        if number % 10 == 7:
            answers.append((number, session.ask_start("what?", max_tokens=4)))
            answers.append((number, session.ask_start("which?", choices=["up", "down"])))
        for _ in range(number % 3):
            engine.step()
            check_books(engine)
        if number % 20 == 0:
            poison_free_cells(engine)
    run_until_idle(engine)
    assert len(rebuilt) >= 10
    head = len(engine.tokens.head(PROMPT))
    for number, answer in answers:
        assert_recomputes(engine.decoder.model, answer, BOUND)
        assert answer.version == answer.row > number
        context = engine.tokens.text(answer.input_ids[head : answer.position])
        rows = context.splitlines()
        assert rows == [row(i) for i in range(answer.row - len(rows), answer.row)]
        assert number < 10 or len(context) >= 90 - head - 12
    assert session.rows == 150 and session.overflow == "rebuild"
    assert session.window_rows == len(visible_text(engine, session).splitlines()) - 1
    poison_free_cells(engine)
    last = session.ask_start("and now?", max_tokens=3)
    run_until_idle(engine)
    assert_recomputes(engine.decoder.model, last, BOUND)


def test_the_window_is_rebuilt_in_idle_time_and_no_question_waits(still):
    session = still.open("s", cells=400, overflow="rebuild", window=80)
    behind, rebuilt = collect(still, Behind), collect(still, Rebuilt)
    number = 0
    while not rebuilt:
        session.push(row(number))
        run_until_idle(still)
        number += 1
    assert behind == []
    assert still.stats().background_tokens > 0
    # A question asked in the middle of the next rebuild is answered from the old window.
    while session.ingest.window.rebuild is None:
        session.push("0123456789")
        still.step()
    before = session.position
    answer = session.ask_start("what?", max_tokens=2, fresh=False)
    still.step()
    assert answer.position == before or answer.token_ids
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, BOUND)


def test_a_question_under_way_keeps_reading_the_window_it_began_on(still):
    session = still.open("s", cells=300, overflow="rebuild", window=60)
    for number in range(8):
        session.push(row(number))
    run_until_idle(still)
    answer = session.ask_start("what?", max_tokens=100)
    still.step()
    rebuilt = collect(still, Rebuilt)
    number = 8
    while not rebuilt and not answer.done:
        session.push(row(number))
        still.step()
        check_books(still)
        number += 1
    # Background work waits for questions, so the swap needs the window to be full first.
    assert rebuilt and not answer.done
    assert session.ingest.window.retired
    for _ in range(3):
        session.push(row(number))
        still.step()
        poison_free_cells(still)
    run_until_idle(still)
    assert not session.ingest.window.retired
    assert_recomputes(still.decoder.model, answer, BOUND)


def test_a_session_that_outruns_the_machine_says_so_and_loses_nothing(still):
    session = still.open("s", cells=260, overflow="rebuild", window=100, max_pending=10_000)
    behind = collect(still, Behind)
    for number in range(200):
        session.push(row(number))
    while not behind:
        still.step()
    assert session.behind and "behind" in repr(session)
    assert behind[0].pending_rows > 0
    run_until_idle(still)
    assert session.version == session.rows == 200 and not session.behind
    assert still.stats().behind == len(behind)
    assert visible_text(still, session).splitlines()[-1] == row(199)
    answer = session.ask_start("what?", max_tokens=3)
    run_until_idle(still)
    assert_recomputes(still.decoder.model, answer, BOUND)


def test_many_rows_in_one_tick_are_cut_between_rows(still):
    session = still.open("s", cells=400, overflow="rebuild", window=100)
    for start in range(0, 120, 6):
        session.push([row(i) for i in range(start, start + 6)])
        run_until_idle(still)
    lines = visible_text(still, session).strip().splitlines()
    assert lines == [row(i) for i in range(120 - len(lines), 120)]
    assert len(lines) == session.window_rows and len(lines) % 6 != 0


@pytest.mark.parametrize(
    "sizes", [(6, 14), (9, 15, 2, 15), (1, 15, 15), (8, 8, 8, 13), (15, 1, 14)]
)
def test_whatever_is_accepted_in_one_tick_is_read(still, sizes):
    session = still.open("s", cells=400, overflow="rebuild", window=100)
    assert session.ingest.capacity == 200
    told = []
    for size in sizes:  # rows of 13 tokens: 15 fit, and 7 stay when a window is rebuilt
        rows = [f"{len(told) + n:04}:abcdefg" for n in range(size)]
        told += rows
        tick = session.push(rows)
        run_until_idle(still)
        assert tick.num_tokens == 13 * size and tick.done
        answer = session.ask_start("which?", max_tokens=2)
        run_until_idle(still)
        assert_recomputes(still.decoder.model, answer, BOUND)
        visible = visible_text(still, session).splitlines()
        assert visible and visible == told[-len(visible) :]
    poison_free_cells(still)


def test_two_windows_over_one_feed_are_rebuilt_once(make_engine):
    engine = make_engine(start=False, cells=4096, limits=StepLimits(tokens=48))
    sessions = [
        engine.open(f"s{i}", prompt=PROMPT, cells=400, overflow="rebuild", window=100)
        for i in range(4)
    ]
    rebuilt = collect(engine, Rebuilt)
    for number in range(120):
        for session in sessions:
            session.push(row(number))
        run_until_idle(engine)
        check_books(engine)
    stats = engine.stats()
    assert len(rebuilt) >= 12
    computed = stats.ingested_tokens + stats.background_tokens
    each, rest = divmod(computed + stats.shared_tokens, 4)
    assert rest == 0 and computed <= each
    poison_free_cells(engine)
    for session in sessions:
        answer = session.ask_start("what?", max_tokens=3)
        run_until_idle(engine)
        assert_recomputes(engine.decoder.model, answer, BOUND)


def test_memory_is_flat_over_thousands_of_ticks(still):
    session = still.open("s", prompt=PROMPT, cells=200, overflow="rebuild", window=60)
    query = session.flash("up?", choices=["up", "down"])
    sizes = set()
    for number in range(600):
        session.push(row(number))
        run_until_idle(still)
        if number > 100:
            window = session.ingest.window
            sizes.add(still.pool.num_free)
            assert len(session.token_ids) <= 100
            assert len(window.rows._starts) <= 100 and not window.retired
            assert len(still.core.works) <= 2
            assert len(still.core.prefixes._lines) <= 1 + 2 * (100 // 32)
    assert max(sizes) - min(sizes) <= 100
    assert query.evaluations > 500


def test_a_session_that_is_behind_rebuilds_as_rarely_as_its_window_allows(still):
    session = still.open("s", prompt=PROMPT, cells=800, overflow="rebuild", window=100)
    rebuilt = collect(still, Rebuilt)
    for i in range(600):
        session.push(row(i))
    tokens = session.ingest.ticks.tokens
    run_until_idle(still)
    assert session.rows == 600
    fewest = tokens / (session.ingest.capacity - 100)
    assert fewest - 1 <= len(rebuilt) <= fewest * 1.1 + 1


# Evict.


def test_a_deep_queue_evicts_no_row_before_its_cells_are_needed(still):
    session = still.open("s", cells=160, overflow="evict", max_pending=1000)
    for number in range(100):
        session.push(row(number))
    seen = []
    while still.step():
        if session.version > 20:
            seen.append(len(session.token_ids))
    assert session.version == 100 and len(seen) > 5
    assert min(seen) >= 160 * 3 // 4 - 12


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_evicting_drops_the_oldest_whole_rows_and_keeps_the_prompt(make_engine, family):
    engine = make_engine(family, start=False, cells=1024, limits=StepLimits(tokens=24))
    session = engine.open("s", prompt=PROMPT, cells=150, overflow="evict")
    left = collect(engine, RowsLeft)
    head = len(engine.tokens.head(PROMPT))
    pending = []
    for number in range(150):
        session.push(row(number))
        if number % 9 == 4:
            pending.append(session.ask_start("what?", max_tokens=5, fresh=number % 2 == 0))
        for _ in range(number % 4):
            engine.step()
            check_books(engine)
            assert session.ingest.sequence.num_cells <= 150
        poison_free_cells(engine)
    run_until_idle(engine)
    assert left and all(answer.error is None for answer in pending)
    assert session.rows == 150
    assert sum(e.rows for e in left) == 150 - session.window_rows
    rows = engine.tokens.text(session.token_ids[head:]).splitlines()
    assert rows == [row(i) for i in range(150 - session.window_rows, 150)]
    assert len(session.token_ids) <= 150 < session.position
    answer = session.ask_start("what?", max_tokens=3)
    run_until_idle(engine)
    assert answer.input_ids[: len(session.token_ids)] == session.token_ids


def test_what_stays_keeps_its_positions():
    """With one layer no key depends on another token: exact, over the rows left where they were."""
    model, tokenizer = tiny_model(num_hidden_layers=1)
    with wb.Engine((model, tokenizer), cells=512, limits=StepLimits(tokens=32), start=False) as e:
        session = e.open("s", prompt=PROMPT, cells=90, overflow="evict")
        for number in range(30):
            session.push(row(number))
            run_until_idle(e)
        answer = session.ask_start("what?", max_tokens=1)
        run_until_idle(e)
        gap = session.ingest.sequence.gap
        head = len(e.tokens.head(PROMPT))
        assert gap > 0
        ids = torch.tensor([answer.input_ids])
        positions = torch.arange(ids.shape[1])
        positions[head:] += gap
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            # The mask keeps transformers from reading the gap as the seam of two packed texts.
            want = model(ids, attention_mask=torch.ones_like(ids), position_ids=positions[None],
                         use_cache=False).logits[0, -1].float()  # fmt: skip
        logprob = torch.log_softmax(want, -1)[answer.token_ids[0]].item()
        assert answer.logprobs[0] == pytest.approx(logprob, abs=BOUND)
        moved = torch.log_softmax(plain_logits(model, answer.input_ids)[-1], -1)
        assert abs(moved[answer.token_ids[0]].item() - logprob) > 100 * BOUND
        model.set_attn_implementation("workbench")


def with_starts(model, ids, head, starts):
    """Plain logits where token ``i`` sees ``head``, and itself from ``head + starts[i]`` on."""
    at = torch.arange(len(ids))
    rows = at[None] >= head + torch.tensor(starts)[:, None]
    seen = (at[None] <= at[:, None]) & ((at[None] < head) | rows) | torch.eye(len(ids)).bool()
    near = at[:, None] - at[None] < (getattr(model.config, "sliding_window", None) or len(ids))
    masks = {"full_attention": seen, "sliding_attention": seen & near}
    masks = {kind: torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[None, None]
             for kind, mask in masks.items()}  # fmt: skip
    layered = model.config.model_type == "gemma2"
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        mask = masks if layered else masks["full_attention"]
        logits = model(torch.tensor([ids]), attention_mask=mask, use_cache=False).logits
    model.set_attn_implementation("workbench")
    return logits[0].float()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_whatever_was_computed_saw_the_rows_that_were_there_then(make_engine, family):
    """Answers after many evictions, by plain transformers over every row there ever was.

    A row that left is seen by the rows computed before, through whose keys it lasts.
    """
    engine = make_engine(family, start=False, cells=1024, limits=StepLimits(tokens=24))
    model = engine.decoder.model
    session = engine.open("s", prompt=PROMPT, cells=120, overflow="evict")
    head, sequence = engine.tokens.head(PROMPT), session.ingest.sequence
    log, starts = list(head), [0] * len(head)
    answers = []

    def step() -> bool:
        more = engine.step()
        new = sequence.length - len(log)
        log.extend(session.token_ids[len(session.token_ids) - new :] if new else [])
        starts.extend([sequence.gap] * new)
        check_books(engine)
        return more

    for number in range(60):
        session.push([row(2 * number), row(2 * number + 1)])
        if number % 3 == 2:
            answers.append(session.ask_start("what?", max_tokens=3, fresh=number % 2 == 0))
        for _ in range(number % 3):
            step()
        poison_free_cells(engine)
    while step():
        pass
    asked = engine.tokens.question("what?")
    assert sequence.gap > 6 * 120 and len(answers) == 20
    moved = 0.0
    for answer in answers:
        shown = len(answer.input_ids) - len(asked)
        gap, at = answer.position - shown, answer.position
        assert answer.input_ids == [*head, *log[len(head) + gap : at], *asked]
        ids = [*log[:at], *asked, *answer.token_ids]
        told = starts[:at] + [gap] * (len(ids) - at)
        got = torch.tensor(answer.logprobs)
        want, forgot = (
            torch.log_softmax(with_starts(model, ids, len(head), s), -1)[at + len(asked) - 1 : -1]
            .gather(1, torch.tensor(answer.token_ids)[:, None]).flatten()
            for s in (told, [gap] * len(ids))
        )  # fmt: skip
        assert torch.allclose(got, want, rtol=0, atol=BOUND)
        moved = max(moved, (got - forgot).abs().max().item())
    assert moved > 100 * BOUND  # had the rows that left been gone at once, that would show


def test_evicting_ends_where_the_models_positions_do(make_engine):
    engine = make_engine(model=tiny_model(max_position_embeddings=200), start=False)
    session = engine.open("s", cells=100, overflow="evict")
    while session.position + 11 <= 200:
        session.push("0123456789")
        run_until_idle(engine)
    with pytest.raises(CellsExhausted, match="overflow='evict' keeps positions"):
        session.push("0123456789")
    assert 150 < session.position <= 200


@pytest.mark.parametrize(("options", "error"), [
    ({"overflow": "forget"}, "expected 'error', 'rebuild' or 'evict'"),
    ({"window": 50}, "only overflow='rebuild' has one"),
    ({"overflow": "evict", "window": 50}, "only overflow='rebuild' has one"),
    ({"overflow": "rebuild", "window": 100}, "fewer than half of the session's 200 cells"),
    ({"overflow": "rebuild", "window": 5, "prompt": "long prompt"}, "more than the"),
    ({"overflow": "evict", "evictable": True}, "use overflow='rebuild'"),
])  # fmt: skip
def test_windows_that_make_no_sense_are_refused(still, options, error):
    with pytest.raises(WorkbenchError, match=error):
        still.open("s", cells=200, **options)
    assert still.sessions == {}


@pytest.mark.parametrize("overflow", ["rebuild", "evict"])
def test_a_tick_larger_than_the_window_is_refused_whole(still, overflow):
    session = still.open("s", cells=200, overflow=overflow)
    with pytest.raises(CellsExhausted, match="push fewer rows at a time"):
        session.push("x" * 200)
    assert session.pending_rows == 0
    most = (100 if overflow == "rebuild" else 200) - session.position - 1
    for _ in range(3):
        session.push("y" * most)
        run_until_idle(still)
    assert session.version == 3 and session.window_rows == 1


def test_a_full_session_without_a_window_names_the_way_out(still):
    session = still.open("s", cells=20)
    with pytest.raises(CellsExhausted, match="overflow='rebuild'"):
        session.push("x" * 30)


def test_ticks_of_several_rows_never_wait_for_a_window_that_had_idle_time(make_engine):
    engine = make_engine(start=False, cells=2048, limits=StepLimits(tokens=48))
    session = engine.open("s", cells=800, overflow="rebuild", window=150)
    behind = collect(engine, Behind)
    for number in range(120):
        session.push([row(5 * number + i) for i in range(5)])
        run_until_idle(engine)
    assert behind == [] and engine.stats().rebuilds > 10


# Beside flash queries.


@pytest.mark.parametrize("overflow", ["evict", "rebuild"])
def test_an_evaluation_that_holds_its_cells_does_not_stop_a_window(make_engine, overflow):
    limits = StepLimits(tokens=48)
    engine = make_engine(start=False, cells=4096, watermark=1000, limits=limits)
    engine.tokens.eos_ids = frozenset()
    window = engine.open("window", cells=300, overflow=overflow)
    other = engine.open("other", cells=2000)
    other.push("hello")
    run_until_idle(engine)
    window.flash("tell me everything?", max_tokens=20)
    number = iter(range(1000))
    while not window.ingest.window.retired:  # which an evaluation under way reads
        window.push(row(next(number)))
        for _ in range(6):
            engine.step()
    assert window.ingest.begun()
    endless = other.ask_start("tell me?", max_tokens=800, fresh=False)
    ticks = [window.push(row(next(number))) for _ in range(40)]
    last = window.ask_start("which?", max_tokens=2)
    for _ in range(400):
        engine.step()
    assert all(tick.done for tick in ticks) and last.done and not window.behind
    assert not endless.done
    check_books(engine)


def test_rows_leave_no_sooner_for_questions_that_read_as_they_do(make_engine):
    def fewest(asked: bool) -> int:
        engine = make_engine(start=False, cells=2048, limits=StepLimits(tokens=48))
        session = engine.open("s", cells=320, overflow="evict")
        seen = []
        for number in range(90):
            if asked:
                session.ask_start("which?", max_tokens=8, fresh=False)
                engine.step()
            session.push(f"{number:04}:abcdefgh")
            run_until_idle(engine)
            seen.append(session.window_rows)
        return min(seen[40:])

    assert fewest(asked=True) == fewest(asked=False)


def test_a_flash_answer_over_rows_that_have_left_is_not_fresh(still):
    session = still.open("s", cells=400, overflow="rebuild", window=120)
    query = session.flash("so?", choices=["up", "down"])
    moves = collect(still, Rebuilt)
    for number in range(60):
        session.push(row(number))
        run_until_idle(still)
        assert query.is_fresh and query.answer.context == session.position
        hit = session.ask_start("so?", choices=["up", "down"])
        same = session.ask_start("so?", choices=["up", "down"], at=wb.version(session.version))
        run_until_idle(still)
        assert hit.from_flash and hit.context == same.context
        assert hit.probabilities == pytest.approx(same.probabilities, abs=1e-4)
    assert len(moves) > 2
    assert query.evaluations >= 60 + len(moves)  # the version of a move was answered again
