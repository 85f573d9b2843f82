"""The embedded model's tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.tape.generators import SCHEMAS, make_stream
from workbench.tape.tokenizer import number_features, number_tokens
from workbench.tape.train import make_tokenizer

TOKENIZER = make_tokenizer(5)


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert TOKENIZER.decode(ids) == text


@given(st.lists(st.sampled_from(["<s>", "</s>", "<|answer|>", "<|pad|>", " ", "a", "<"])))
def test_text_that_looks_special_is_never_read_as_such(parts):
    text = "".join(parts)
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert not set(ids) & set(TOKENIZER.all_special_ids)
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("schema", SCHEMAS)
def test_rows_encoded_apart_are_the_rows_encoded_together(schema):
    lines = make_stream(np.random.default_rng(11), 20, schema).lines
    apart = [i for line in lines for i in TOKENIZER(line, add_special_tokens=False).input_ids]
    assert apart == TOKENIZER("".join(lines), add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("68123", ["68", "123"]),
        ("1018234", ["1", "018", "234"]),
        ("101.70", ["101", ".70"]),
        ("1018.2", ["1", "018", ".2"]),
        ("1.0182", ["1", ".018", "2"]),
        ("0.00012346", ["0", ".000", "123", "46"]),
        ("2018-01-05", ["2", "018", "-", "01", "-", "05"]),
    ],
)
def test_digits_are_grouped_from_the_point(text, tokens):
    assert TOKENIZER.tokenize(text) == tokens


def test_a_bar_is_short():
    bar = "up6 BTC o101.20 h102.00 l100.90 c101.70 v53120\n"
    assert len(TOKENIZER.tokenize(bar)) == 19
    rng = np.random.default_rng(3)
    for _ in range(20):
        lines = make_stream(rng, 20, "ohlcv").lines
        lengths = [len(TOKENIZER.tokenize(line)) for line in lines]
        assert np.mean(lengths) <= 24


def test_closed_answers_are_single_tokens():
    for word in ("up", "down", "above", "below", "yes", "no", "rising", "falling", "higher",
                 "lower", "ok", "low", "high"):  # fmt: skip
        assert len(TOKENIZER.tokenize(word)) == 1, word


def test_the_chat_template_is_rows_then_question_then_answer():
    def rendered(*messages):
        chat = [{"role": role, "content": content} for role, content in messages]
        return TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    assert rendered(("system", "P"), ("user", "U")) == "<s>P\nU<|answer|>"
    assert rendered(("user", "U")) == "<s>U<|answer|>"


def test_a_tokenizer_depends_only_on_its_seed():
    assert make_tokenizer(5).get_vocab() == TOKENIZER.get_vocab()


def test_numbers_that_are_close_begin_with_embeddings_that_are():
    names = number_tokens()
    features = number_features()
    assert features.shape[0] == len(names) == len(set(names))

    def near(a, b):
        return float(features[names.index(a)] @ features[names.index(b)])

    assert near("500", "501") > near("500", "520") > near("500", "900")
    assert near(".70", ".71") > near(".70", ".20")
