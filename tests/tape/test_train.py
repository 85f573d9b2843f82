"""A run: it learns, stops, goes on as the same run, and exports what plain transformers loads."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.errors import WorkbenchError
from workbench.tape import __main__ as command
from workbench.tape.export import digest, export
from workbench.tape.train import Run, train


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


def test_a_run_may_begin_with_the_weights_of_a_folder(small, tmp_path):
    before = Run(small)
    before.advance()
    export(before, tmp_path)
    run = Run.begin_with(tmp_path, small, 0.5)
    assert run.recipe.done(run.tokens) == 0.5
    assert run.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert (run.step, run.began) == (1, 1)  # streams go on, the rate rises from the beginning
    stored = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert run.advance()["rate"] == small.rate(50_000, 0)
    run.save(tmp_path / "kept")
    rest = Run.load(tmp_path / "kept")
    assert rest.tokenizer.get_vocab() == run.tokenizer.get_vocab()
    assert rest.began == 1
    assert_same(run, rest)


def test_beginning_with_weights_of_another_shape_or_past_the_end_is_refused(small, tmp_path):
    export(Run(small), tmp_path)
    for change in ({"hidden": 128}, {"layers": 3}):
        other = replace(small, shape=replace(small.shape, **change))
        with pytest.raises(WorkbenchError, match=r"expected weights of .* got .* --begin-with"):
            Run.begin_with(tmp_path, other, 0.5)
    with pytest.raises(WorkbenchError, match=r"expected a share of the plan .* got 7"):
        Run.begin_with(tmp_path, small, 7.0)


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

    def refuses(*words):
        with pytest.raises(SystemExit):
            run(*words)
        return capsys.readouterr().err

    monkeypatch.setattr(
        "workbench.tape.recipe.Recipe", lambda tokens, **kept: replace(small, tokens=tokens, **kept)
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
    more = ("--begin-with", out / "weights", "--at", 0.5, "--tokens", 1500, "--device", "cpu")
    assert run("train", "--out", tmp_path / "more", *more) == 0
    assert digest(tmp_path / "more" / "weights") != digest(out / "weights")
    for words in (("--tokens", 9), ("--seed", 1), ("--at", 0.5), ("--begin-with", out)):
        assert "keeps its own" in refuses("train", "--out", out, "--resume", *words)
    assert "expected with --begin-with" in refuses("train", "--out", tmp_path / "n", "--at", 0.5)
    assert "got both" in refuses("train", "--out", out, "--tokens", 9, "--minutes", 1)
    for words, said in (
        (("train", "--tokens", 0), "expected a plan of tokens, got 0"),
        (("train", "--begin-with", tmp_path), "expected weights and a tokenizer"),
        (("export", "--folder", tmp_path / "f"), "train with this --out"),
    ):
        assert run(*words, "--out", tmp_path / "nowhere") == 1
        assert said in capsys.readouterr().err
    for words, said in ((("--folder", tmp_path), "card.json"), (("--share", 0), "above 0")):
        assert run("evaluate", *words) == 1
        assert said in capsys.readouterr().err


def test_an_interrupt_waits_for_the_step_and_leaves_a_checkpoint(small, tmp_path, monkeypatch):
    recipe = replace(small, tokens=2_000)
    whole, stopped = Run(recipe), Run(recipe)
    advance = stopped.advance

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return advance()

    monkeypatch.setattr(stopped, "advance", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert not train(stopped, tmp_path / "kept", progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    rest = Run.load(tmp_path / "kept")
    assert rest.step == 1
    assert train(rest, tmp_path / "kept", progress=False)
    assert train(whole, tmp_path / "whole", progress=False)
    assert_same(whole, rest)


def test_an_export_takes_the_scores_of_the_weights_before_with_it(small, tmp_path):
    for name in ("CARD.md", "calibration.json"):
        (tmp_path / name).write_text("of other weights")
    export(Run(small), tmp_path)
    assert not (tmp_path / "CARD.md").exists() and not (tmp_path / "calibration.json").exists()
