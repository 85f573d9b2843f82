"""The truths that the demo prints beside the answers."""

import polars as pl
import pytest

from workbench.demo import truths


@pytest.mark.parametrize(
    ("closes", "rows", "expected"),
    [([1.0, 2.0], 1, "up"), ([2.0, 1.0], 1, "down"), ([1.0, 1.0], 1, None), ([1.0], 1, None)],
)
def test_truth_of_a_direction(closes, rows, expected):
    assert truths.direction("c", rows)(pl.DataFrame({"c": closes})) == expected


def test_truth_of_a_close_beside_the_average():
    frame = pl.DataFrame({"c": [*([100.0] * 19), 101.0]})
    assert truths.average(frame) == "100.05"
    assert truths.side(frame) == "above"
    assert truths.side(frame.head(1)) is None
    assert truths.side(frame.head(2)) is None  # both read 100.00


def test_truth_is_as_printed():
    frame = pl.DataFrame({"c": [100.0, 100.004, 102.0]})
    assert truths.direction("c", 1)(frame.head(2)) is None  # both read 100.00
    assert truths.last("c")(frame) == "102.00"
    assert truths.last("v")(pl.DataFrame({"v": [53_120]})) == "53120"
