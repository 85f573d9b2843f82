"""The made-up market."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from workbench.streams.market import bars_of, five_digits, market
from workbench.streams.render import price_text, schema_for


def test_the_same_seed_gives_the_same_market_and_another_seed_another():
    first, again, other = market(50, 3), market(50, 3), market(50, 4)
    assert first.equals(again)
    assert not first["c"].equals(other["c"])


def test_symbols_take_turns_and_do_not_depend_on_their_neighbours():
    both = market(5, 1, ("BTC", "ETH"))
    assert both["symbol"].to_list() == ["BTC", "ETH"] * 5
    assert both["time"].to_list() == sorted(both["time"].to_list())
    assert both.filter(symbol="BTC").equals(market(5, 1))


def test_bars_are_bars():
    bars = bars_of(3000, np.random.default_rng(5), start=40.0, step=0.01)
    assert (bars["h"] >= np.maximum(bars["o"], bars["c"])).all()
    assert (bars["l"] <= np.minimum(bars["o"], bars["c"])).all()
    assert (bars["l"] > 0).all()
    assert (bars["v"] > 0).all()
    assert bars["v"].dtype.kind == "i"


def test_prices_are_what_the_renderer_prints():
    for row in market(200, 8, start=68_000.0).to_dicts():
        assert row["c"] == float(price_text(row["c"]))
    assert five_digits(np.array([99_999.6, 0.123456])).tolist() == [100_000.0, 0.12346]


def test_there_are_quiet_and_wild_stretches():
    bars = bars_of(4000, np.random.default_rng(2))
    moves = np.abs(np.diff(np.log(bars["c"]))).reshape(-1, 31).mean(1)
    assert moves.max() > 5 * moves.min()


def test_a_frame_renders():
    frame = market(4, 2, every=dt.timedelta(hours=1))
    text = schema_for("ohlcv").render(frame.to_dicts())
    assert text.count("\n") == 4
    assert text.split()[1:3] == ["BTC", "o100.00"]


def test_a_single_symbol_may_be_given_as_it_is():
    assert market(3, seed=1, symbols="BTC").equals(market(3, seed=1, symbols=("BTC",)))


def test_nothing_to_make_is_refused():
    with pytest.raises(ValueError, match="at least 1 bar"):
        market(0, 1)
