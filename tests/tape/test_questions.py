"""Every truth, against a reading of the rendered lines that knows nothing of the question maker."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from workbench.streams.render import move_text, schema_for
from workbench.tape.evaluate import label
from workbench.tape.generators import ENTITY, SCHEMAS, make_stream
from workbench.tape.questions import FAMILIES, SHARES, ask
from workbench.tape.wording import ABSENT

KINDS = [
    (schema, family)
    for schema in SCHEMAS
    for family in sorted({f for (s, _), shares in SHARES.items() if s == schema for f in shares})
]


def draws(schema, family, number=60, rows=30):
    """Streams, questions about them, and what their lines say by then."""
    rng = np.random.default_rng([SCHEMAS.index(schema), sorted(FAMILIES).index(family)])
    for _ in range(number):
        several = bool(rng.integers(2)) or family == "who"
        several = several and family != "change"
        stream = make_stream(rng, rows, schema, several=several)
        asked = ask(rng, stream, int(rng.integers(1, rows + 1)), family)
        if asked:
            lines = stream.lines[: asked.rows]
            yield stream, asked, lines, schema_for(schema).parse("".join(lines))


def own_rows(stream, asked, parsed):
    """The rows of whoever the question names; all of them where it names nobody."""
    entity = ENTITY.get(stream.schema, "")
    named = [
        name
        for name in stream.members
        if name and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", asked.text, re.IGNORECASE)
    ]
    if not named or entity not in parsed[0]:
        return parsed
    name = max(named, key=len)
    return [row for row in parsed if str(row[entity]) == name]


def numbers_in(text):
    return [float(n) for n in re.findall(r"(?<![\w.])-?\d+\.?\d*(?![\w.-])", text)]


@pytest.mark.parametrize(("schema", "family"), KINDS)
def test_questions_depend_only_on_the_seed_and_have_an_answer(schema, family):
    first = [asked for _, asked, _, _ in draws(schema, family, 12)]
    assert first == [asked for _, asked, _, _ in draws(schema, family, 12)]
    assert first
    for asked in first:
        assert asked.answer
        assert "{" not in asked.text
        assert not asked.choices or asked.answer in asked.choices
        assert label(asked)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_last_values_stand_in_the_last_row(schema):
    for stream, asked, lines, parsed in draws(schema, "last"):
        if asked.answer == ABSENT:
            continue
        own = own_rows(stream, asked, parsed)
        line = lines[next(n for n, row in enumerate(parsed) if row is own[-1])]
        assert asked.answer in line
        if asked.column in own[-1]:
            shown = own[-1][asked.column]
            assert asked.answer == shown or float(asked.answer) == shown


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "absent") in KINDS])
def test_what_is_not_in_the_data_is_not_in_the_lines(schema):
    for stream, asked, _, parsed in draws(schema, "absent"):
        assert asked.answer == ABSENT
        words = asked.text.rstrip("?").replace(".", "").split()
        strange = [w for w in words if not any(w in str(row) for row in parsed)]
        assert strange, (asked.text, stream.lines[0])


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "trend") in KINDS])
def test_trends_compare_a_value_with_the_one_k_rows_before(schema):
    for stream, asked, _, parsed in draws(schema, "trend"):
        own = own_rows(stream, asked, parsed)
        assert float(asked.k) in numbers_in(asked.text) or asked.k == 10
        before, after = own[-1 - asked.k][asked.column], own[-1][asked.column]
        assert (asked.answer == asked.choices[0]) == (after > before)
        assert before != after
        assert asked.choices[0] in ("up", "rising", "higher")


def test_a_bar_and_its_move_are_open_to_close():
    for stream, asked, _, parsed in draws("ohlcv", "bar"):
        row = own_rows(stream, asked, parsed)[-1]
        assert (asked.answer == "up") == (row["c"] > row["o"])
    for _, asked, lines, parsed in draws("ohlcv", "change"):
        expected = move_text(str(parsed[-1 - asked.k]["c"]), str(parsed[-1]["c"]))
        assert asked.answer == expected
        assert len(lines) == asked.rows


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "extreme") in KINDS])
def test_extremes_are_the_largest_and_smallest_of_the_last_k(schema):
    for stream, asked, _, parsed in draws(schema, "extreme"):
        values = [row[asked.column] for row in own_rows(stream, asked, parsed)[-asked.k :]]
        largest = re.search("highest|largest|maximum", asked.text, re.IGNORECASE)
        assert float(asked.answer) == (max if largest else min)(values)


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "level") in KINDS])
def test_levels_are_compared_with_the_last_value(schema):
    for stream, asked, _, parsed in draws(schema, "level"):
        last = own_rows(stream, asked, parsed)[-1][asked.column]
        if asked.choices != ("above", "below") or re.match(r"Is -?\d", asked.text):
            continue  # tests of `comparing` read these
        level = numbers_in(asked.text)[-1]
        assert asked.answer == ("above" if last > level else "below")
        assert last != level


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "ago") in KINDS])
def test_a_value_of_k_rows_ago_stands_in_that_row(schema):
    for stream, asked, _, parsed in draws(schema, "ago"):
        shown = own_rows(stream, asked, parsed)[-1 - asked.k][asked.column]
        assert float(asked.k) in numbers_in(asked.text)
        assert asked.answer == shown or float(asked.answer) == shown


def test_limits_are_those_of_the_sensors_last_row():
    for stream, asked, _, parsed in draws("iot", "limits"):
        row = own_rows(stream, asked, parsed)[-1]
        if asked.choices == ("yes", "no"):
            assert (asked.answer == "yes") == (row["low"] <= row["value"] <= row["high"])
        elif asked.answer == "fault":
            assert row["value"] is None
        else:
            side = (row["value"] > row["high"]) - (row["value"] < row["low"])
            assert asked.answer == {-1: "low", 0: "ok", 1: "high"}[side]


@pytest.mark.parametrize("schema", [s for s in SCHEMAS if (s, "who") in KINDS])
def test_who_is_the_last_the_fastest_or_the_one_that_moved_most(schema):
    for _, asked, lines, parsed in draws(schema, "who"):
        entity = ENTITY[schema]
        last = {str(row[entity]): (row, line) for row, line in zip(parsed, lines, strict=True)}
        if asked.column == "last":
            assert asked.answer == str(parsed[-1][entity])
        elif asked.column == "v":
            assert all(last[asked.answer][0]["speed"] >= row["speed"] for row, _ in last.values())
        else:
            sizes = {name: int(line.split()[0][-1]) for name, (_, line) in last.items()}
            assert Counter(sizes.values())[sizes[asked.answer]] == 1
            assert max(sizes.values()) == sizes[asked.answer]
        assert set(asked.choices) == set(last)


@pytest.mark.parametrize("schema", ["ohlcv", "iot", "event"])
def test_counts_count_first_words(schema):
    for _, asked, lines, _ in draws(schema, "count"):
        firsts = [re.match("[A-Za-z=]+", line)[0] for line in lines[-asked.k :]]
        wanted = next(
            words
            for sign, words in {
                "outside|out of": {"low", "high"}, "inside|ok": {"ok"}, "high": {"high"},
                "low": {"low"}, " up": {"up"}, " down": {"down"}, "ERROR": {"ERROR"},
                "INFO": {"INFO"}, "WARN": {"WARN"},
            }.items()
            if re.search(sign, asked.text)
        )  # fmt: skip
        assert int(asked.answer) == sum(word in wanted for word in firsts)
        assert len(firsts) == asked.k


def test_what_has_happened_is_in_a_line_of_the_window():
    for _, asked, lines, parsed in draws("event", "happened"):
        window = parsed[-asked.k :] if asked.k else parsed
        quoted = re.search("'(.+)'", asked.text)
        level = re.search(r"\b(DEBUG|INFO|WARN|ERROR|FATAL)\b", asked.text)
        there = (
            any(quoted[1] in row["message"] for row in window)
            if quoted
            else any(row["level"] == level[1] for row in window)
        )
        assert (asked.answer == "yes") == there
        assert len(lines) == asked.rows


def test_closed_answers_are_about_as_often_one_as_the_other():
    for schema, family in KINDS:
        if family in ("trend", "level", "happened", "bar"):
            first = [a.answer == a.choices[0] for _, a, _, _ in draws(schema, family, 150)]
            assert 0.25 < np.mean(first) < 0.75, (schema, family)


def test_there_are_many_wordings():
    rng = np.random.default_rng(1)
    seen: dict[str, set[str]] = {}
    for _ in range(400):
        stream = make_stream(rng, 22, several=False)
        for _ in range(12):
            asked = ask(rng, stream, int(rng.integers(12, 23)))
            if asked:
                plain = re.sub(r"[\d.]+", "#", asked.text)
                seen.setdefault(asked.family, set()).add(plain)
    assert {family: len(texts) for family, texts in seen.items() if len(texts) < 5} == {}
