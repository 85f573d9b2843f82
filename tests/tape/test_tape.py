"""The embedded model: its data, its tokenizer, its training, and the weights that are shipped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.streams.render import schema_for
from workbench.tape import weights_path
from workbench.tape.batch import GROUP, Branch, branch_ids, context_ids, make_batch
from workbench.tape.evaluate import OPPOSITE, SEED, answered, held_out, label, load
from workbench.tape.questions import ask, shown, stream
from workbench.tape.train import Recipe, Run, Shape, Stage, digest, make_tokenizer, train

SMALL = Recipe(
    steps=12,
    shape=Shape(dim=32, layers=1, heads=2, kv_heads=1, hidden=64),
    stages=(Stage(1.0, batch=2, context=96, branches=GROUP, max_k=3),),
    warmup=2,
)
# well below what the card measures, so that another machine's rounding cannot fail them
FLOOR_CLOSE = 0.85
FLOOR_TREND = 0.68
TOKENIZER = AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="module")
def tokenizer():
    return TOKENIZER


@pytest.fixture(scope="module")
def shipped():
    return load(weights_path())


def test_streams_and_questions_depend_only_on_the_seed():
    def draw(seed):
        rng = np.random.default_rng(seed)
        sample = stream(rng, 30)
        return sample.lines, [ask(rng, sample, 25) for _ in range(10)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_truth_of_a_value_is_what_the_last_row_shows():
    rng = np.random.default_rng(4)
    for _ in range(40):
        sample = stream(rng, 12, "rows")
        asked = ask(rng, sample, 9, "last")
        assert f"={asked.answer}" in sample.lines[8]
        parsed = schema_for("rows").parse(sample.lines[8])[0]
        texts = [shown("rows", sample.rows[8], column) for column in parsed]
        assert asked.answer in texts


@pytest.mark.parametrize("k", [3, 5, 10, 20])
def test_the_truth_of_a_trend_compares_two_closes(k):
    rng = np.random.default_rng(k)
    for _ in range(20):
        sample = stream(rng, 40, "bars")
        asked = ask(rng, sample, 30, "trend", k=k)
        before, after = sample.rows[29 - k]["c"], sample.rows[29]["c"]
        assert asked is None or asked.answer == ("up" if after > before else "down")
        assert ask(rng, sample, k, "trend", k=k) is None


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


def test_rows_encoded_apart_are_the_rows_encoded_together(tokenizer):
    rng = np.random.default_rng(11)
    for kind in ("bars", "symbols", "rows"):
        lines = stream(rng, 20, kind).lines
        apart = [i for line in lines for i in tokenizer(line, add_special_tokens=False).input_ids]
        assert apart == tokenizer("".join(lines), add_special_tokens=False).input_ids


def test_digits_are_single_and_a_bar_is_short(tokenizer):
    assert tokenizer.tokenize("c101.20") == ["c", "1", "0", "1.", "2", "0"]
    bar = "up6 o101.20 h102.00 l100.90 c101.70 v53120\n"
    assert len(tokenizer.tokenize(bar)) == 33
    assert all(len(tokenizer.tokenize(choice)) == 1 for choice in OPPOSITE)


def test_the_chat_template_is_rows_then_question_then_answer(tokenizer):
    def rendered(*messages):
        chat = [{"role": role, "content": content} for role, content in messages]
        return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    assert rendered(("system", "P"), ("user", "U")) == "<s>P\nU<|answer|>"
    assert rendered(("user", "U")) == "<s>U<|answer|>"


def test_a_branch_is_computed_as_the_same_text_in_a_line(shipped, tokenizer):
    tree, _ = shipped
    plain = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32)
    batch = make_batch(
        tokenizer, np.random.default_rng(3), batch=1, context=128, branches=GROUP, max_k=3
    )
    with torch.inference_mode():
        logits = tree(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            ends=batch.ends,
            use_cache=False,
        ).logits[0]
        position, ids = batch.positions[0], batch.ids[0]
        begins = [
            i for i in range(129, 128 + GROUP) if position[i] != position[i - 1] + 1 and ids[i] != 0
        ]
        assert begins
        for at in begins:
            end = int(position[at])
            line = torch.cat([ids[:end], ids[at : at + 5]])[None]
            expected = plain(line).logits[0, -1]
            # float32 sums in another order; logits are of order 10
            torch.testing.assert_close(logits[at + 4], expected, atol=2e-3, rtol=2e-3)


def test_the_shipped_weights_are_those_of_the_card():
    card = json.loads((weights_path() / "card.json").read_text())
    assert card["trained"]["sha256"] == digest(weights_path())
    assert digest(weights_path()) in (weights_path() / "CARD.md").read_text()
    assert (weights_path() / "model.safetensors").stat().st_size < 12e6


def test_a_tokenizer_depends_only_on_its_seed():
    first, again = make_tokenizer(5), make_tokenizer(5)
    assert first.get_vocab() == again.get_vocab()
    assert first.tokenize("up6 o1.2345\n") == ["up", "6", "Ġo", "1.", "2", "3", "4", "5", "Ċ"]


def test_the_shipped_weights_answer_held_out_questions(shipped):
    model, tokenizer = shipped
    right: dict[str, list[bool]] = {}
    for sample, seen, branches in held_out(tokenizer, 1024, 8, seed=SEED + 1, streams=4):
        marks = answered(model, tokenizer, seen, branches)
        for mark, branch in zip(marks, branches, strict=True):
            right.setdefault(label(branch.asked, sample), []).append(mark)
    close = right["last close"]
    trend = [mark for what, marks in right.items() if "over the last" in what for mark in marks]
    assert np.mean(close) >= FLOOR_CLOSE, (np.mean(close), len(close))
    assert np.mean(trend) >= FLOOR_TREND, (np.mean(trend), len(trend))


def test_plain_transformers_generation_gives_the_same_answer(shipped):
    tree, tokenizer = shipped
    plain = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32)
    rng = np.random.default_rng(21)
    for _ in range(4):
        sample = stream(rng, 10, "bars")
        seen, ends = context_ids(tokenizer, sample, 400)
        asked = ask(rng, sample, len(ends), "last")
        question, answer = branch_ids(tokenizer, asked)
        ids = torch.tensor([seen[: ends[-1]] + question])
        made = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(answer))
        marked = answered(tree, tokenizer, seen, [Branch(ends[-1], question, answer, asked)])
        assert (made[0, ids.shape[1] :].tolist() == answer) == marked[0]


def test_a_few_steps_lower_the_loss():
    run = Run(SMALL)
    made = [run.advance()["row"] for _ in range(12)]
    assert made[-1] < made[0] - 0.2


def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bits(tmp_path):
    whole = Run(SMALL)
    for _ in range(5):
        whole.advance()
    whole.save(tmp_path / "kept")
    for _ in range(4):
        whole.advance()
    rest = Run(SMALL)
    rest.load(tmp_path / "kept")
    for _ in range(4):
        rest.advance()
    assert rest.step == whole.step
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, rest.model.state_dict()[name]), name
    for mine, theirs in zip(whole.average, rest.average, strict=True):
        assert torch.equal(mine, theirs)


def test_training_exports_a_folder_that_loads(tmp_path):
    run = train(replace(SMALL, steps=2), tmp_path / "out", tmp_path / "kept")
    assert run.step == 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 16_384
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
