"""Fixtures: engines over tiny models, stepped by hand or by their thread, checked at the end."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import workbench as wb
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import check_books, poison_free_cells, tiny_model

# Tiny models gain nothing from a second thread, and lose much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture
def make_engine() -> Iterator[Callable[..., wb.Engine]]:
    """Make engines over tiny models; free cells hold NaN, and the books are checked afterwards."""
    engines: list[wb.Engine] = []

    def make(family: str = "llama", *, cells: int = 2048, **options: Any) -> wb.Engine:
        model = options.pop("model", None) or tiny_model(family)
        options.setdefault("limits", StepLimits())  # without measuring the machine each time
        engine = wb.Engine(model, cells=cells, **options)
        poison_free_cells(engine)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        if not engine.closed:
            engine.call(lambda engine=engine: check_books(engine))
        engine.close()
        assert engine.pool.num_free == engine.pool.num_cells, "cells were lost"


@pytest.fixture
def engine(make_engine: Callable[..., wb.Engine]) -> wb.Engine:
    """A tiny Llama with its thread running."""
    return make_engine()
