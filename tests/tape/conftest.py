"""A tokenizer and a model too small to know anything, for what does not depend on knowing."""

from __future__ import annotations

import pytest

from workbench.tape.recipe import Recipe, Shape, Stage
from workbench.tape.train import make_tokenizer

SMALL = Recipe(
    tokens=100_000,
    shape=Shape(dim=32, layers=2, heads=4, kv_heads=2, hidden=64, hint_layer=1),
    stages=(Stage(0.5, batch=2, context=128, branches=128, max_k=3), Stage(1.0, 1, 256, 128)),
    warmup=2,
    learning_rate=1e-2,
)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer(SMALL.seed)


@pytest.fixture(scope="session")
def small():
    return SMALL
