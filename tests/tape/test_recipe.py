"""The schedule: what is read and how fast is learned, by the share of the plan that is done."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from workbench.tape.batch import make_batch
from workbench.tape.generators import SCHEMAS
from workbench.tape.questions import FAMILIES
from workbench.tape.recipe import STAGES, Recipe, read_recipe
from workbench.tape.train import Run


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
    shares = replace(small.stages[1], schemas=(0.5, 0.5, 0.0, 0.0, 0.0, 0.0), rates=(0.3, 0.1))
    for recipe in (small, replace(small, stages=(small.stages[0], shares))):
        assert read_recipe(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_what_a_stage_asks_more_about_is_a_share_of_known_families():
    for stage in STAGES:
        assert set(stage.more) <= set(FAMILIES)
        assert sum(stage.more.values()) < 1.0
        if stage.schemas is not None:
            assert len(stage.schemas) == len(SCHEMAS) and sum(stage.schemas) == pytest.approx(1.0)


def test_a_stage_may_draw_its_schemas_by_shares_of_its_own(small, monkeypatch):
    drawn = []

    def made(*args, schemas, **kept):
        drawn.append(schemas)
        return make_batch(*args, schemas=schemas, **kept)

    monkeypatch.setattr("workbench.tape.train.make_batch", made)
    only = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    first, second = small.stages
    Run(replace(small, stages=(replace(first, schemas=only), second))).advance()
    Run(small).advance()
    assert drawn == [only, small.schemas]
