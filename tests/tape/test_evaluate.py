"""Scores, the card and the calibration, on a model that knows nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from workbench.errors import WorkbenchError
from workbench.tape import evaluate as module
from workbench.tape.batch import branch_ids
from workbench.tape.calibration import Closed, calibrate, expected_error, fit, reliability
from workbench.tape.card import aims, card_text, verdicts
from workbench.tape.evaluate import answered, baseline, evaluate, held_out, load, real_rows
from workbench.tape.export import export
from workbench.tape.moments import Asked
from workbench.tape.train import Run


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    made = tmp_path_factory.mktemp("weights")
    export(Run(small), made)
    return made


def test_answers_are_marked_as_one_forward_over_a_line_marks_them(folder):
    model, tokenizer = load(folder)
    kinds = [("ohlcv", True), ("iot", False)]
    for _, _, seen, branches in held_out(tokenizer, 200, 1, 12, kinds=kinds):
        model.set_attn_implementation("branching")
        found = answered(model, tokenizer, seen, branches)
        model.set_attn_implementation("sdpa")
        for branch, result in zip(branches, found, strict=True):
            assert result.asked is branch.asked
            for text, chance in zip(branch.asked.choices, result.chances, strict=True):
                words = tokenizer(text, add_special_tokens=False).input_ids
                line = torch.tensor([seen[: branch.end] + branch.question + words])
                with torch.inference_mode():
                    logs = model(line).logits[0].log_softmax(-1)
                at = line.shape[1] - len(words) - 1
                expected = sum(float(logs[at + i, word]) for i, word in enumerate(words))
                assert chance == pytest.approx(expected, abs=1e-3)
            if result.chances:
                best = branch.asked.choices[int(np.argmax(result.chances))]
                assert result.right == (best == branch.asked.answer)


def test_held_out_streams_depend_on_their_seed_only(tokenizer):
    def draw(seed):
        kinds = [("iot", True), ("event", False)]
        return [
            (name, seen, [b.asked for b in branches])
            for name, _, seen, branches in held_out(tokenizer, 300, 2, 6, kinds=kinds, seed=seed)
        ]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_questions_are_about_the_last_quarter(tokenizer):
    for _, _, seen, branches in held_out(tokenizer, 600, 1, 10):
        assert 400 < len(seen) <= 600
        assert all(branch.end >= 0.75 * len(seen) for branch in branches)


def test_real_rows_are_plotlys_prices(tokenizer):
    made = list(real_rows(tokenizer, 3))
    assert len(made) == 14
    name, stream, _, branches = made[0]
    assert name == "rows, 7 columns"
    assert len(stream.rows) == 105
    assert stream.rows[0]["date"] == "2018-01-01"
    assert branches
    question, answer = branch_ids(tokenizer, branches[0].asked)
    assert (question, answer) == (branches[0].question, branches[0].answer)


def test_the_baseline_is_the_commonest_answer():
    up, down = ("up", "down"), ("rising", "falling")
    asked = [
        Asked("trend", "", "up", 1, up), Asked("trend", "", "rising", 1, down),
        Asked("trend", "", "falling", 1, down),
    ]  # fmt: skip
    assert baseline(asked) == pytest.approx(2 / 3)
    assert baseline([Asked("last", "", a, 1) for a in "aab"]) == pytest.approx(2 / 3)
    names = [Asked("who", "", "a", 1, tuple("abcd")), Asked("who", "", "b", 1, tuple("ab"))]
    assert baseline(names) == pytest.approx(0.375)


def test_a_temperature_makes_overconfident_chances_honest():
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(4000):
        gap = float(rng.normal(0, 1.5))
        truth = int(rng.random() < 1 / (1 + np.exp(gap)))  # what gap means
        asked.append(Closed((3 * gap, 0.0), truth))  # three times as sure as that
    assert fit(asked) == pytest.approx(3.0, rel=0.1)
    assert expected_error(asked, 3.0) < 0.02 < expected_error(asked, 1.0)
    found = calibrate(asked)
    assert found["questions"] == 2000
    assert sum(b["questions"] for b in reliability(asked, 1.0)) == 4000
    for row in found["reliability"]:
        if row["questions"] > 200:
            assert abs(row["said"] - row["right"]) < 0.08


def score(what, right, context=1024, base=0.5, questions=100):
    return {
        "where": "held out", "schema": "ohlcv", "what": what, "context": context,
        "questions": questions, "accuracy": right, "free": right, "baseline": base,
    }  # fmt: skip


def test_the_can_do_list_is_decided_by_the_worst_length_and_the_baseline():
    found = verdicts([
        score("a", 0.99), score("a", 0.91, 2048), score("a", 0.2, 8192),
        score("b", 0.99), score("b", 0.8, 2048),
        score("c", 0.93, base=0.92), score("d", 0.5), score("e", 0.95, questions=3),
        score("not in the data", 0.97, base=1.0),
    ])  # fmt: skip
    assert found["sure"] == [("ohlcv", "a", 0.91), ("ohlcv", "not in the data", 0.97)]
    assert found["often"] == [("ohlcv", "b", 0.8)]
    assert [what for _, what, _ in found["not"]] == ["c", "d"]


def test_what_falls_short_is_said():
    short, far = aims([
        score("last value", 0.97, 2048), score("how many of k", 0.91, 2048),
        score("how many of k", 0.85, 8192),
    ])  # fmt: skip
    assert short == ["ohlcv, last value: 97%, aim 98%"]
    assert far == ["ohlcv, how many of k: 91% to 85%"]


def test_evaluate_writes_a_card_for_the_weights_it_scored(folder, monkeypatch):
    monkeypatch.setattr(module, "PLAN", {200: (1, 22)})
    monkeypatch.setattr(module, "REGIMES", dict.fromkeys(module.REGIMES, (1, 4)))
    monkeypatch.setattr(module, "UNSEEN_LENGTH", 200)
    monkeypatch.setattr(module, "real_rows", lambda tokenizer: iter(()))
    made = evaluate(folder)
    card = json.loads((folder / "card.json").read_text())
    assert len(card["scores"]) == len(made) > 20
    assert {s["where"] for s in card["scores"]} >= {"held out", "unseen saw", "names", "by k"}
    assert (folder / "CARD.md").read_text() == card_text(card)
    assert card["trained"]["sha256"] in card_text(card)
    kept = json.loads((folder / "calibration.json").read_text())
    assert kept == {"temperature": card["calibration"]["temperature"]}
    card["trained"]["sha256"] = "0" * 64
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(WorkbenchError, match="export them again"):
        evaluate(folder)
