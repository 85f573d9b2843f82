"""Names off no list: any, never two alike, and rows that read back."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.streams.render import schema_for
from workbench.tape.generators import ENTITY, SCHEMAS, make_stream
from workbench.tape.names import draw_message, draw_name, retold
from workbench.tape.questions import ask


def test_names_and_messages_are_many_and_whole():
    rng = np.random.default_rng(1)
    names = [draw_name(rng) for _ in range(2000)]
    messages = [draw_message(rng) for _ in range(2000)]
    assert len(set(names)) > 1700
    assert all(text and text == text.strip() and text.isprintable() for text in names + messages)
    for sign in "_-./: #0aZü":
        assert any(sign in name for name in names), sign


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_stream_retold_has_the_same_rows_under_other_names(schema):
    rng = np.random.default_rng(2)
    told = 0
    for _ in range(60):
        stream = make_stream(rng, 12, schema)
        again = retold(np.random.default_rng(3), stream)
        assert again == retold(np.random.default_rng(3), stream)
        schema_for(schema).parse("".join(again.lines))
        assert len(again.members) == len(stream.members)
        assert list(again.members.values()) == list(stream.members.values())
        for old, new in zip(stream.rows, again.rows, strict=True):
            changed = {c for c in old if new.get(c) != old[c]}
            may = {ENTITY.get(schema)} | {"source", "message"} if schema != "rows" else set(old)
            assert changed <= may, changed
            assert [v for v in new.values() if not isinstance(v, str)] == [
                v for v in old.values() if not isinstance(v, str)
            ]
        told += again.retold and again.lines != stream.lines
    assert told > 15


def test_questions_about_retold_streams_speak_of_what_is_there_and_what_is_not():
    rng = np.random.default_rng(4)
    families = {"absent": 0, "happened": 0, "last": 0}
    for _ in range(200):
        stream = retold(rng, make_stream(rng, 10, "event"))
        for family in families:
            asked = ask(rng, stream, 10, family)
            families[family] += asked is not None
            if asked and asked.family == "last" and asked.column == "message":
                assert asked.answer == stream.rows[-1]["message"]
    assert min(families.values()) > 100
