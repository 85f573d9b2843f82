"""The weights that are shipped: the ones of their card, and as good as it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from workbench.tape import weights_path
from workbench.tape.batch import branches_for, context_ids
from workbench.tape.evaluate import answered, load
from workbench.tape.export import digest
from workbench.tape.generators import make_stream
from workbench.tape.moments import Asked, mark, shown
from workbench.tape.questions import ask

# Well below what the card measures, so that another machine's rounding cannot fail them.
FLOORS = {"last": 0.95, "bar": 0.95, "level": 0.65}


@pytest.fixture(scope="module")
def shipped():
    return load(weights_path())


def plain_questions(rng, tokens, number, tokenizer):
    """A stream of bars in ``tokens`` tokens, and plain questions about its last quarter: the last
    close, the last bar's direction, and whether a value is above or below a number."""
    stream = make_stream(rng, tokens // 12, "ohlcv", several=False)
    seen, ends = context_ids(tokenizer, stream, tokens)
    asked = []
    for rows in rng.integers(len(ends) * 3 // 4, len(ends) + 1, number).tolist():
        row = stream.rows[rows - 1]
        asked.append(Asked("last", "What was the last close?", shown(row, "c", "ohlcv"), rows))
        if mark("ohlcv", row) != "=":
            text = "Was the last bar up or down?"
            asked.append(Asked("bar", text, mark("ohlcv", row), rows, ("up", "down")))
        asked += [beside for _ in range(2) if (beside := ask(rng, stream, rows, "level"))]
    return seen, branches_for(tokenizer, asked, ends)


def test_the_shipped_weights_are_those_of_the_card():
    card = json.loads((weights_path() / "card.json").read_text())
    assert card["trained"]["sha256"] == digest(weights_path())
    assert digest(weights_path()) in (weights_path() / "CARD.md").read_text()
    assert (weights_path() / "model.safetensors").stat().st_size < 20e6


def test_the_shipped_weights_answer_held_out_questions(shipped):
    model, tokenizer = shipped
    rng = np.random.default_rng(77_000_002)
    right: dict[str, list[bool]] = {family: [] for family in FLOORS}
    for _ in range(6):
        for result in answered(model, tokenizer, *plain_questions(rng, 1024, 8, tokenizer)):
            right[result.asked.family].append(result.right)
    for family, marks in right.items():
        assert np.mean(marks) >= FLOORS[family], (family, np.mean(marks), len(marks))


def test_plain_transformers_generation_gives_the_same_answer(shipped):
    tree, tokenizer = shipped
    plain = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32)
    rng = np.random.default_rng(21)
    for _ in range(4):
        seen, branches = plain_questions(rng, 300, 1, tokenizer)
        (first, *_), (result, *_) = branches, answered(tree, tokenizer, seen, branches)
        ids = torch.tensor([seen[: first.end] + first.question])
        made = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(first.answer)
        )
        assert (made[0, ids.shape[1] :].tolist() == first.answer) == result.free
