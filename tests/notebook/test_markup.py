import math
import re

import pytest

from workbench.notebook.markup import (
    COLOURS,
    answers_strip,
    chances_strip,
    colour_of,
    milliseconds,
    share_bar,
    text,
)


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0.0414, "0.04 ms"), (5.0, "5.0 ms"), (250.4, "250 ms"), (1500, "1.50 s"),
        (math.nan, "\u2013"),
    ],
)
def test_milliseconds(ms, shown):
    assert milliseconds(ms) == shown


def test_text_is_escaped_quotes_included():
    assert text("<a href='x'>") == "&lt;a href=&#x27;x&#x27;&gt;"


def test_a_share_is_kept_within_the_bar():
    assert re.findall(r"width:([\d.]+)%", share_bar([0.25, 1.7, -1.0], COLOURS)) == [
        "25.0", "100.0", "0.0",
    ]  # fmt: skip


def test_the_first_choice_is_drawn_above_the_line_and_the_second_below():
    strip = chances_strip([1.0, 0.0], 3, "past <x>")
    up, down = re.findall(r'<path d="([^"]+)" fill="([^"]+)"', strip)
    assert up == ("M4 11v-10.0h3v10.0z", COLOURS[0])
    assert down == ("M8 11v10.0h3v-10.0z", COLOURS[1])
    assert "past &lt;x&gt;" in strip


def test_answers_are_as_high_as_their_confidence_and_newest_right():
    strip = answers_strip([(0, 1.0), (4, 0.5)], 2, "past")
    assert re.findall(r'<path d="([^"]+)" fill="([^"]+)"', strip) == [
        ("M0 21v-20.0h3v20.0z", colour_of(0)),
        ("M4 21v-10.0h3v10.0z", colour_of(4)),
    ]


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_stand_out_in_both_themes(colour, page):
    high, low = sorted((_luminance(colour), _luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3.0
