"""The recipe of the embedded model: its size, and the stages that a run goes through.

The plan is a number of tokens, fixed when a run begins and kept in its checkpoint. What is read and
the learning rate are functions of the share of the plan that is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import WorkbenchError
from workbench.tape.generators import SHARES


@dataclass(frozen=True)
class Shape:
    """The size of the model; hints are read after ``hint_layer`` layers."""

    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 576
    rope_theta: float = 100_000.0
    hint_layer: int = 4


@dataclass(frozen=True)
class Stage:
    """Part of a run, up to ``until`` (share of the plan): lengths in tokens, ``max_k`` in rows.

    ``more`` holds shares of the questions that are of one family whatever the stream, ``names`` is
    the share of streams that are retold with names off no list, ``several`` that of streams of
    several members, where it is not the schemas' own; ``plain`` questions compare in one direction
    only (`comparing`); ``rates`` are the shares of the learning rate that it begins and ends with,
    where it has its own; ``schemas`` the shares of its streams' schemas, likewise.
    """

    until: float
    batch: int
    context: int
    branches: int
    max_k: int = 20
    more: Mapping[str, float] = field(default_factory=dict)
    names: float = 0.0
    several: float | None = None
    plain: bool = False
    rates: tuple[float, float] | None = None
    schemas: tuple[float, ...] | None = None


# fmt: off
def _growing(short: float, mid: float, long: float) -> tuple[Stage, ...]:
    """Three of five streams with several members, in contexts that grow to the longest."""
    return (
        Stage(
            short, batch=8, context=512, branches=384, names=0.4, several=0.6, rates=(0.33, 0.15),
            more={"last": 0.25, "trend": 0.2, "level": 0.15, "extreme": 0.05, "who": 0.04,
                  "compare": 0.03},
        ),
        Stage(
            mid, batch=2, context=2304, branches=1024, names=0.4, several=0.6, rates=(0.15, 0.08),
            more={"last": 0.25, "trend": 0.15, "level": 0.12, "extreme": 0.04},
        ),
        Stage(
            long, batch=1, context=9216, branches=2048, names=0.4, several=0.6, rates=(0.2, 0.01),
            more={"last": 0.3, "trend": 0.1, "level": 0.1},
        ),
    )


# Most of the plan is short; what long contexts need beyond that is little, and dear. They come
# last, when the rate has fallen too far to learn them, and so have a stage after the plan.
STAGES = (
    Stage(0.08, batch=10, context=256, branches=256, max_k=10, more={"last": 0.5}),
    Stage(0.50, batch=8, context=512, branches=384),
    Stage(0.72, batch=4, context=1024, branches=640),
    Stage(0.88, batch=2, context=2304, branches=1024),
    Stage(0.96, batch=1, context=4608, branches=1536),
    Stage(1.00, batch=1, context=9216, branches=2048),
    Stage(1.06, batch=1, context=9216, branches=2048, more={"last": 0.3}, rates=(0.12, 0.01)),
    # Names that no list holds, which the stages so far have not seen.
    Stage(1.16, batch=8, context=512, branches=384, names=0.7, rates=(0.3, 0.15)),
    Stage(1.22, batch=2, context=2304, branches=1024, names=0.6, rates=(0.15, 0.08)),
    Stage(
        1.25, batch=1, context=9216, branches=2048, more={"last": 0.3}, names=0.5,
        rates=(0.08, 0.01),
    ),
    # Two numbers compared: within a few rows, where it is hardly learned; by themselves, where it
    # is; within rows again; and then as before, so that nothing else is lost.
    Stage(
        1.36, batch=8, context=128, branches=512, max_k=5, names=0.3, rates=(0.3, 0.3),
        more={"compare": 0.3, "larger": 0.22, "level": 0.18, "last": 0.1},
    ),
    Stage(
        1.39, batch=8, context=256, branches=512, max_k=10, names=0.4, rates=(0.3, 0.3),
        more={"compare": 0.1, "larger": 0.2, "level": 0.22, "last": 0.12, "trend": 0.12},
    ),
    Stage(
        1.51, batch=4, context=64, branches=1024, max_k=3, names=0.3, rates=(0.33, 0.33),
        more={"compare": 0.8, "last": 0.1},
    ),
    Stage(
        1.54, batch=8, context=128, branches=512, max_k=5, names=0.3, rates=(0.33, 0.33),
        more={"compare": 0.15, "larger": 0.22, "level": 0.25, "last": 0.15},
    ),
    Stage(
        1.64, batch=8, context=96, branches=512, max_k=5, plain=True, rates=(0.33, 0.33),
        more={"compare": 0.28, "larger": 0.22, "level": 0.22, "last": 0.12},
    ),
    Stage(
        1.73, batch=8, context=512, branches=384, names=0.5, rates=(0.3, 0.12),
        more={"compare": 0.06, "larger": 0.12, "level": 0.2, "last": 0.12},
    ),
    Stage(
        1.78, batch=2, context=2304, branches=1024, names=0.5, rates=(0.12, 0.06),
        more={"compare": 0.03, "larger": 0.07, "level": 0.16, "last": 0.15},
    ),
    Stage(
        1.81, batch=1, context=9216, branches=2048, names=0.4, rates=(0.06, 0.01),
        more={"larger": 0.05, "level": 0.15, "last": 0.25},
    ),
    # After so many short ones, what long contexts need has to be learned again.
    Stage(
        1.85, batch=1, context=9216, branches=2048, names=0.4, rates=(0.2, 0.01),
        more={"level": 0.12, "last": 0.3},
    ),
    # Several at once: trends and levels of each; then whose a value is, by itself; then all again.
    Stage(
        1.98, batch=8, context=128, branches=512, max_k=5, names=0.2, several=0.6, plain=True,
        rates=(0.33, 0.33),
        more={"trend": 0.3, "level": 0.18, "last": 0.2, "extreme": 0.08, "larger": 0.06,
              "compare": 0.05},
    ),
    Stage(
        2.06, batch=8, context=256, branches=512, names=0.2, several=1.0, rates=(0.33, 0.33),
        more={"last": 0.7, "trend": 0.1, "level": 0.08},
    ),
    *_growing(2.22, 2.30, 2.34),
    # The same again, since whose a value is was still being learned; then trends of each.
    Stage(
        2.42, batch=8, context=256, branches=512, names=0.2, several=1.0, rates=(0.33, 0.33),
        more={"last": 0.7, "trend": 0.1, "level": 0.08},
    ),
    Stage(
        2.48, batch=8, context=256, branches=512, names=0.2, several=1.0, rates=(0.33, 0.33),
        more={"last": 0.3, "trend": 0.35, "level": 0.2},
    ),
    *_growing(2.60, 2.70, 2.74),
    # A few rows back, by itself: what stood there, and which way it went since; farther back; then
    # a value against a number, by itself; and all again.
    Stage(
        2.79, batch=8, context=128, branches=512, max_k=3, names=0.2, several=0.4,
        rates=(0.33, 0.33), more={"ago": 0.35, "trend": 0.3, "level": 0.12, "last": 0.1},
    ),
    Stage(
        2.86, batch=8, context=256, branches=512, max_k=10, names=0.2, several=0.5,
        rates=(0.33, 0.33), more={"ago": 0.25, "trend": 0.35, "level": 0.15, "last": 0.1},
    ),
    Stage(
        2.92, batch=8, context=256, branches=512, names=0.2, several=0.5, rates=(0.33, 0.33),
        more={"level": 0.6, "trend": 0.1, "last": 0.12},
    ),
    *_growing(3.00, 3.05, 3.08),
    # Numbers below zero, which only positions had so far: a value against a number, by itself.
    Stage(
        3.20, batch=8, context=256, branches=512, names=0.2, several=0.5, rates=(0.33, 0.33),
        more={"level": 0.35, "trend": 0.25, "compare": 0.1, "last": 0.1},
        schemas=(0.2, 0.2, 0.08, 0.02, 0.3, 0.2),
    ),
    *_growing(3.28, 3.33, 3.36),
)
# fmt: on


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on.

    Attributes:
        tokens: the plan, contexts and branches together.
        averaged: the weights that are kept are a mean over about so many tokens.
    """

    tokens: int
    seed: int = 20_261_121
    shape: Shape = Shape()
    stages: tuple[Stage, ...] = STAGES
    schemas: tuple[float, ...] = SHARES
    learning_rate: float = 3e-3
    warmup: int = 200
    decay_from: float = 0.5
    last_rate: float = 0.02
    row_loss: float = 0.6
    hint_loss: float = 0.5
    averaged: int = 250_000

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise WorkbenchError(f"expected a plan of tokens, got {self.tokens}")

    def done(self, tokens: int) -> float:
        """The share of the whole run that ``tokens`` tokens are, from 0 to 1."""
        return min(1.0, tokens / self.tokens / self.stages[-1].until)

    def stage(self, tokens: int) -> Stage:
        """The stage that a run of ``tokens`` tokens so far is in."""
        done = tokens / self.tokens
        return next((s for s in self.stages if done < s.until), self.stages[-1])

    def rate(self, tokens: int, step: int) -> float:
        """The learning rate there: up, level, then down in a straight line; or the stage's own."""
        done = tokens / self.tokens
        rate = self.learning_rate * min(1.0, (step + 1) / self.warmup)
        stage = self.stage(tokens)
        if stage.rates is not None:
            began = max([s.until for s in self.stages if s.until < stage.until], default=0.0)
            share = min(1.0, (done - began) / (stage.until - began))
            rate *= stage.rates[0] + (stage.rates[1] - stage.rates[0]) * share
        elif done > self.decay_from:
            rate *= max(self.last_rate, (1 - done) / (1 - self.decay_from))
        return rate


def read_recipe(kept: dict[str, Any]) -> Recipe:
    """The recipe that ``asdict`` made ``kept`` of."""
    stages = tuple(
        Stage(**(stage | {n: stage[n] and tuple(stage[n]) for n in ("rates", "schemas")}))
        for stage in kept["stages"]
    )
    parts = {"shape": Shape(**kept["shape"]), "stages": stages, "schemas": tuple(kept["schemas"])}
    return Recipe(**(kept | parts))
