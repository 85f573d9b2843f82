"""Moments as people write them."""

import numpy as np
import pytest

import workbench as wb
from workbench.errors import QuestionError
from workbench.moment import Moment, moment


@pytest.mark.parametrize(
    ("text", "want", "shown"),
    [
        ("500", wb.row(500), "row 500"), (" -10 ", wb.row(-10), "10 rows ago"),
        ("v12", wb.version(12), "version 12"), ("v-1", wb.version(-1), "1 version ago"),
        ("1200", wb.row(1200), "row 1,200"),
    ],
)  # fmt: skip
def test_a_written_moment(text, want, shown):
    assert Moment.parse(text) == want
    assert str(want) == shown


@pytest.mark.parametrize("text", ["", "v", "noon", "1.5", "version 3"])
def test_what_is_no_moment(text):
    with pytest.raises(QuestionError, match="expected a row such as 500"):
        Moment.parse(text)


def test_a_plain_number_counts_rows():
    assert moment(7) == moment(np.int64(7)) == wb.row(7) and moment(None) is None
    assert moment(wb.version(2)) == wb.version(2)
    for wrong in (1.5, "7", True):
        with pytest.raises(QuestionError, match="whole number of rows"):
            moment(wrong)
