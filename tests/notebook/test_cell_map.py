import itertools
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workbench as wb
from workbench.engine.holdings import Holding
from workbench.notebook.cell_panel import (
    KINDS,
    MOST_PIECES,
    CellMapPart,
    cells_frame,
    coarser,
    line_length,
    map_state,
    pieces,
    saved_cells,
)
from workbench.notebook.view_model import Watch

CELLS = 60


@st.composite
def holdings(draw):
    start = draw(st.integers(0, CELLS - 1))
    length = draw(st.integers(0, CELLS - start))
    filled = draw(st.integers(0, length))
    kind = draw(st.sampled_from(KINDS))
    owner = "" if kind == "prompt" else draw(st.sampled_from(["btc", "eth", "sol"]))
    return Holding(start, length, filled, owner, kind)


def named(holding):
    return holding.owner or "kept prompt"


@given(st.lists(holdings(), max_size=12))
def test_every_cell_is_in_one_piece_that_says_what_a_count_per_cell_says(held):
    parts = pieces(held, CELLS)
    assert [p.start for p in parts] == [0, *(p.end for p in parts[:-1])]
    assert parts[-1].end == CELLS and all(p.length > 0 for p in parts)
    for piece in parts:
        for cell in range(piece.start, piece.end):
            own = [h for h in held if h.start <= cell < h.start + h.length]
            lasting = [h for h in own if h.kind not in ("question", "flash")]
            assert set(piece.holders) == {named(h) for h in own}
            assert len(piece.holders) == len(set(piece.holders))
            assert piece.readers == len(own) - len(lasting)
            assert piece.shared == (len(lasting) or bool(own))
            is_filled = any(cell < h.start + h.filled for h in own)
            assert piece.state == ("filled" if is_filled else "reserved" if own else "free")
            kinds = [kind for kind in KINDS if kind in {h.kind for h in own}]
            assert piece.kind == (kinds or ["free"])[0]


@given(st.lists(holdings(), max_size=12))
def test_pieces_are_as_few_as_can_be(held):
    parts = pieces(held, CELLS)
    looks = [(p.state, p.kind, p.holders, p.shared, p.readers) for p in parts]
    assert all(one != other for one, other in itertools.pairwise(looks))


@given(st.lists(holdings(), max_size=12), st.integers(1, 12))
def test_a_coarser_map_is_of_the_same_pool(held, most):
    parts = coarser(pieces(held, CELLS), most)
    assert len(parts) <= most
    assert [p.start for p in parts] == [0, *(p.end for p in parts[:-1])]
    assert parts[-1].end == CELLS


def test_what_is_long_keeps_its_place_when_short_pieces_join():
    held = [Holding(100 + 2 * i, 1, 1, "btc", "session") for i in range(100)]
    held.append(Holding(400, 500, 200, "eth", "session"))
    parts = coarser(pieces(held, 1_000), 12)
    assert [(p.start, p.end, p.state) for p in parts[-3:]] == [
        (400, 600, "filled"), (600, 900, "reserved"), (900, 1_000, "free"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "lines"), [(2_048, 4), (65_536, 8), (131_072, 8), (1_000_000, 16), (1, 1), (3, 3)]
)
def test_a_pool_is_wrapped_over_few_lines(cells, lines):
    length = line_length(cells)
    assert -(-cells // length) == lines


@given(st.integers(1, 2_000_000))
def test_lines_are_never_many(cells):
    assert 1 <= -(-cells // line_length(cells)) <= 16


def test_a_pool_of_many_pieces_is_sent_as_few():
    held = [Holding(20 * i, 10, 5, f"s{i % 64}", "session") for i in range(5_000)]
    parts = pieces(held, 1_000_000)
    assert len(parts) == 15_000
    state = map_state(parts, {f"s{i}": i for i in range(64)}, {})
    assert len(state["pieces"]) <= MOST_PIECES
    assert len(json.dumps(state)) < 50_000
    assert state["counts"]["filled"] == 25_000, "counts are of the pool, not of the picture"
    assert sum(state["counts"].values()) == 1_000_000


def test_sharing_is_counted_once_and_questions_are_no_sharers():
    held = [
        Holding(0, 100, 100, "btc", "session"),
        Holding(0, 40, 40, "eth", "session"),
        Holding(0, 100, 100, "btc", "question"),
        Holding(100, 8, 3, "btc", "question"),
    ]
    parts = pieces(held, 200)
    assert saved_cells(parts) == 40
    assert [(p.length, p.holders, p.shared, p.readers) for p in parts] == [
        (40, ("btc", "eth"), 2, 1), (60, ("btc",), 1, 1), (3, ("btc",), 1, 1),
        (5, ("btc",), 1, 1), (92, (), 0, 0),
    ]  # fmt: skip
    state = map_state(parts, {"btc": 0, "eth": 1}, {"btc": 150, "eth": 50})
    assert state["holders"] == [["btc", 0, 100, 150], ["eth", 1, 40, 50]]
    assert state["saved"] == 40 and state["free"] == 92
    assert state["counts"] == {
        "filled": 60, "reserved": 0, "shared": 40, "question": 8, "flash": 0, "free": 92,
    }  # fmt: skip


def test_the_frame_is_of_a_real_pool(stepped, run_dry):
    for name in ("btc", "eth"):
        s = stepped.open(name, prompt="The same long beginning. " * 20, cells=800)
        s.push(f"{name} ab")
        run_dry(stepped)
    frame = cells_frame(stepped)
    assert frame.columns == ["start", "length", "state", "holders", "kind", "shared", "readers"]
    assert frame.schema["holders"] == pl.List(pl.String)
    assert frame["length"].sum() == stepped.num_cells
    free = frame.filter(pl.col("kind") == "free")
    assert free["length"].sum() == stepped.pool.num_free
    both = frame.filter(pl.col("shared") == 2)
    assert both["holders"].to_list() == [["btc", "eth"]] and both["length"].item() > 300
    used = frame.explode("holders").filter(pl.col("state") == "filled")
    for name in ("btc", "eth"):
        cells = used.filter(pl.col("holders") == name)["length"].sum()
        assert cells == stepped.session(name).cells_used


def test_an_empty_pool_is_one_free_piece(stepped):
    assert cells_frame(stepped).rows() == [(0, stepped.num_cells, "free", [], "free", 0, 0)]


@pytest.fixture
def shown():
    part = CellMapPart()
    yield part
    part.panel.close()


def test_the_part_looks_between_steps_and_sends_changes_only(shown, stepped, run_dry):
    sent = []
    shown.panel.observe(lambda change: sent.append(change["new"]), "state")
    shown.draw(stepped, 10.0)
    shown.draw(stepped, 10.2)
    assert sent == [], "it waits for the engine"
    run_dry(stepped)
    shown.draw(stepped, 10.4)
    assert sent[-1]["free"] == stepped.num_cells
    s = stepped.open("btc", cells=400)
    for now in (11.0, 11.2, 11.4, 11.6):
        run_dry(stepped)
        shown.draw(stepped, now)
    assert len(sent) == 1, "nothing was said to have happened"
    shown.take(wb.events.SessionOpened(session="btc", budget=400))
    for now in (12.0, 12.2):
        shown.draw(stepped, now)
        run_dry(stepped)
    assert len(sent) == 2 and sent[-1]["free"] == stepped.num_cells - 400
    assert sent[-1]["holders"] == [["btc", 0, s.cells_used, 400]]


def test_the_part_asks_at_most_twice_a_second(shown, stepped, run_dry):
    asked = 0
    look = stepped.holdings

    def counted():
        nonlocal asked
        asked += 1
        return look()

    stepped.holdings = counted
    for tenth in range(30):
        shown.take(wb.events.TokenOut(question="?", text="x"))
        shown.draw(stepped, 100.0 + tenth / 10)
        run_dry(stepped)
    assert 5 <= asked <= 7


def test_a_session_keeps_its_colour_when_another_closes(shown, stepped, run_dry):
    def colours():
        shown.take(wb.events.TokenOut(question="?", text="x"))
        now = colours.now = colours.now + 10
        shown.draw(stepped, now)
        run_dry(stepped)
        shown.draw(stepped, now)
        return {name: colour for name, colour, _, _ in shown.panel.state["holders"]}

    colours.now = 0.0
    for name in ("a", "b", "c"):
        stepped.open(name, cells=100)
    assert colours() == {"a": 0, "b": 1, "c": 2}
    stepped.session("a").close()
    assert colours() == {"b": 1, "c": 2}
    stepped.open("d", cells=100)
    assert colours() == {"b": 1, "c": 2, "d": 0}
    assert {row.name: row.colour for row in Watch().session_rows(stepped, 0.0)} == colours()


def test_it_follows_a_running_engine(shown, engine, eventually):
    engine.events.subscribe(shown.take)
    engine.open("btc", cells=400).push("one two").wait(60)
    now = 1e9

    def seen():
        nonlocal now
        now += 1
        shown.draw(engine, now)
        holders = shown.panel.state.get("holders", [])
        return holders and holders[0][2] == engine.session("btc").cells_used

    eventually(seen)
    engine.close()
    state = shown.panel.state
    shown.draw(engine, now + 10)
    shown.draw(engine, now + 20)
    assert shown.panel.state == state, "the last picture stays"
