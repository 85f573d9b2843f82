"""Questions that compare: the truth, read off the question's words and the rendered lines."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from workbench.tape.generators import SCHEMAS, make_stream
from workbench.tape.moments import shown
from workbench.tape.questions import FAMILIES, SHARES, ask

NUMBER = r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])"  # and no part of a name


def drawn(family, schema, number=80):
    rng = np.random.default_rng([SCHEMAS.index(schema), sorted(FAMILIES).index(family), 3])
    for _ in range(number):
        stream = make_stream(rng, 14, schema)
        asked = ask(rng, stream, int(rng.integers(1, 15)), family)
        if asked:
            yield stream, asked


def larger_is_wanted(text):
    return not re.search("smaller|lower", text)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_two_numbers_of_a_question_are_compared_as_they_are_written(schema):
    kinds = set()
    for _, asked in drawn("compare", schema):
        one, other = (float(n) for n in re.findall(NUMBER, asked.text))
        kinds.add(asked.choices)
        assert asked.family == "compare"
        if not asked.choices:
            wanted = max(one, other) if larger_is_wanted(asked.text) else min(one, other)
            assert asked.answer in asked.text and float(asked.answer) == wanted
        elif asked.choices == ("above", "below"):
            assert asked.answer == ("above" if one > other else "below")
        else:
            over = bool(re.search("above|larger|greater", asked.text))
            assert asked.answer == ("yes" if (one > other) == over else "no")
    assert kinds == {(), ("above", "below"), ("yes", "no")}


@pytest.mark.parametrize("schema", [s for s, several in SHARES if not several and s != "event"])
def test_the_larger_of_two_is_one_of_them_and_the_other_is_not(schema):
    seen = {"number": 0, "ago": 0, "two": 0}
    for stream, asked in drawn("larger", schema, 160):
        rows = [row for row in stream.rows[: asked.rows] if row[asked.column] is not None]
        values = [shown(row, asked.column, schema) for row in rows]
        if asked.k:
            seen["ago"] += 1
            mine = [own for own in stream.members.values() if any(n < asked.rows for n in own)]
            pairs = [
                {shown(stream.rows[own[-1]], asked.column, schema),
                 shown(stream.rows[own[-1 - asked.k]], asked.column, schema)}
                for own in ([n for n in each if n < asked.rows] for each in mine)
                if len(own) > asked.k
                and stream.rows[own[-1]][asked.column] is not None
                and stream.rows[own[-1 - asked.k]][asked.column] is not None
            ]  # fmt: skip
            best = max if larger_is_wanted(asked.text) else min
            assert asked.answer in [best(pair, key=float) for pair in pairs]
        elif asked.text.lower().count("the last ") == 2:
            seen["two"] += 1
            assert asked.answer in values
        else:
            seen["number"] += 1
            (number,) = {n for n in re.findall(NUMBER, asked.text) if n not in stream.members}
            assert asked.answer == number or asked.answer in values
            lasts = {
                shown(stream.rows[own[-1]], asked.column, schema)
                for own in ([n for n in each if n < asked.rows] for each in stream.members.values())
                if own and stream.rows[own[-1]][asked.column] is not None
            }
            best = max if larger_is_wanted(asked.text) else min
            assert asked.answer in {best((number, last), key=float) for last in lasts}
    assert seen["number"] and seen["ago"]
    assert bool(seen["two"]) == ((schema, True) in SHARES)


@pytest.mark.parametrize("schema", [s for s, several in SHARES if not several and s != "event"])
def test_a_level_asked_for_yes_or_no_or_the_other_way_round_has_the_same_truth(schema):
    kinds = set()
    for stream, asked in drawn("level", schema, 160):
        if len(stream.members) > 1:
            continue
        last = float(shown(stream.rows[asked.rows - 1], asked.column, schema))
        level = next(n for n in re.findall(NUMBER, asked.text)[::-1] if float(n) != last)
        over = last > float(level)
        if asked.choices == ("yes", "no"):
            kinds.add("yes")
            side = bool(re.search("above|higher|over|greater", asked.text))
            assert asked.answer == ("yes" if over == side else "no")
        elif re.match(rf"Is {re.escape(level)} above", asked.text):
            kinds.add("turned")
            assert asked.answer == ("below" if over else "above")
        else:
            kinds.add("plain")
            assert asked.answer == ("above" if over else "below")
    assert kinds == {"yes", "turned", "plain"}


def test_levels_are_zero_where_values_go_below_it_and_nowhere_else():
    met: dict[bool, set[str]] = {True: set(), False: set()}
    for stream, asked in itertools.chain(*(drawn("level", s, 400) for s in ("rows", "spatial"))):
        if len(stream.members) > 1:
            continue
        rows = stream.rows[: asked.rows]
        values = [float(shown(row, asked.column, stream.schema)) for row in rows]
        numbers = [float(n) for n in re.findall(NUMBER, asked.text)]
        level = next(n for n in reversed(numbers) if n != values[-1])
        side = "zero" if level == 0 else "other" if level * values[-1] < 0 else "same"
        met[min(values[-12:]) < 0].add(side)
    assert met[False] == {"same"} and {"zero", "same"} <= met[True]


@pytest.mark.parametrize("family", ["level", "larger", "compare"])
def test_plain_questions_compare_in_one_direction_only(family):
    rng = np.random.default_rng(8)
    answers = set()
    for _ in range(60):
        stream = make_stream(rng, 14, "vitals")
        asked = ask(rng, stream, 14, family, plain=True)
        if asked is None:
            continue
        answers.add(asked.answer if asked.choices else "")
        assert larger_is_wanted(asked.text) and not asked.k
        if asked.choices == ("yes", "no"):
            assert re.search("above|higher|over|larger|greater", asked.text)
        assert asked.text.lower().count("the last ") < 2
    assert answers == {
        "level": {"above", "below", "yes", "no"}, "larger": {""},
        "compare": {"above", "below", "yes", "no", ""},
    }[family]  # fmt: skip
