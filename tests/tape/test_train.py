"""A run: it learns, stops, goes on as the same run, and exports what plain transformers loads."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.tape import __main__ as command
from workbench.tape.export import digest, export
from workbench.tape.train import STAGES, Recipe, Run, read_recipe, train


def assert_same(one: Run, other: Run) -> None:
    assert (one.step, one.tokens) == (other.step, other.tokens)
    for part in ("model", "heads"):
        weights = getattr(other, part).state_dict()
        for name, value in getattr(one, part).state_dict().items():
            assert torch.equal(value, weights[name]), name
    for mine, theirs in zip(one.average, other.average, strict=True):
        assert torch.equal(mine, theirs)


def test_a_few_steps_lower_the_loss(small):
    run = Run(small)
    made = [run.advance() for _ in range(12)]
    assert made[-1]["row"] < made[0]["row"] - 0.2
    assert made[-1]["answer"] < made[0]["answer"] - 0.2


def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bits(small, tmp_path):
    recipe = replace(small, tokens=4_000)  # the checkpoint lies in one stage, the end in the next
    whole = Run(recipe)
    for _ in range(3):
        whole.advance()
    whole.save(tmp_path / "kept")
    for _ in range(4):
        whole.advance()
    rest = Run.load(tmp_path / "kept")
    assert rest.recipe == recipe
    assert 0 < rest.done < 0.5
    for _ in range(4):
        rest.advance()
    assert whole.recipe.stage(whole.tokens) is recipe.stages[1]
    assert_same(whole, rest)


def test_a_paused_run_goes_on_to_where_an_undisturbed_one_ends(small, tmp_path):
    recipe = replace(small, tokens=2_000)
    whole, paused = Run(recipe), Run(recipe)
    assert train(whole, tmp_path / "whole", progress=False)
    assert not train(paused, tmp_path / "paused", pause=0.0, progress=False)
    rest = Run.load(tmp_path / "paused")
    assert rest.step == 1
    assert train(rest, tmp_path / "paused", progress=False)
    assert_same(whole, rest)


def test_the_schedule_is_a_function_of_the_share_done():
    recipe, twice = Recipe(tokens=1_000_000), Recipe(tokens=2_000_000)
    for share in (0.0, 0.3, 0.7, 0.99):
        one, other = round(share * 1_000_000), round(share * 2_000_000)
        assert recipe.stage(one) == twice.stage(other)
        assert recipe.rate(one, 10_000) == pytest.approx(twice.rate(other, 10_000))
    rates = [recipe.rate(tokens, 10_000) for tokens in range(0, 1_000_000, 50_000)]
    assert rates == sorted(rates, reverse=True)
    assert recipe.rate(0, 0) < recipe.rate(0, 100) < recipe.rate(0, 199)
    assert recipe.rate(999_999, 10_000) == pytest.approx(recipe.learning_rate * recipe.last_rate)


def test_a_stage_may_have_rates_of_its_own_after_the_plan():
    recipe = Recipe(tokens=1_000_000, stages=(STAGES[0], replace(STAGES[1], until=1.0), STAGES[-1]))
    end = round(1_000_000 * STAGES[-1].until)
    rates = [recipe.rate(t, 10_000) / recipe.learning_rate for t in (1_000_000, end)]
    assert rates == pytest.approx(STAGES[-1].rates)
    assert recipe.stage(999_999).rates is None and recipe.stage(1_000_000) is STAGES[-1]
    assert recipe.done(1_000_000) < 1.0 == recipe.done(end)


def test_long_contexts_are_trained_on():
    assert max(stage.context for stage in STAGES) >= 8192
    assert [stage.until for stage in STAGES] == sorted(stage.until for stage in STAGES)
    assert 1.0 in [stage.until for stage in STAGES]  # where the rate of the plan ends


def test_a_recipe_comes_back_from_its_checkpoint(small):
    assert read_recipe(json.loads(json.dumps(asdict(small)))) == small


def test_an_export_loads_in_plain_transformers(small, tmp_path):
    run = Run(small)
    run.advance()
    written = export(run, tmp_path)
    assert written == digest(tmp_path)
    assert json.loads((tmp_path / "card.json").read_text())["trained"]["sha256"] == written
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 16_384
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert len(tokenizer) == model.config.vocab_size


def test_the_command_trains_pauses_resumes_and_refuses_to_start_over(
    small, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tape", *map(str, words)])
        return command.main()

    monkeypatch.setattr(
        "workbench.tape.train.Recipe", lambda tokens, **kept: replace(small, tokens=tokens, **kept)
    )
    assert run("train", "--out", out, "--resume") == 1
    assert run("train", "--out", out, "--tokens", 1500, "--pause", 0, "--device", "cpu") == 0
    assert "paused" in capsys.readouterr().err
    assert run("train", "--out", out) == 1
    assert "--resume" in capsys.readouterr().err
    assert run("train", "--out", out, "--resume", "--device", "cpu") == 0
    assert (out / "weights" / "model.safetensors").exists()
    assert run("export", "--out", out, "--folder", tmp_path / "again") == 0
    assert digest(tmp_path / "again") == digest(out / "weights")
