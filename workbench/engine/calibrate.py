"""How many tokens a step should have on this machine, and what steps cost: measured at start-up."""

from __future__ import annotations

import math
import time

from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine.batch import Part, Step
from workbench.engine.logits import Logits
from workbench.engine.model import Decoder
from workbench.scheduler.cost import CostModel
from workbench.scheduler.scheduler import StepLimits

SIZES = (1, 4, 16, 32, 64, 128, 256, 512)
SMALLEST_STEP = 64  # tokens; a step of fewer would be mostly overhead outside the model
ENOUGH = 1.1  # a step is large enough once its time per token is within this of the best
SETTLED = 0.95  # of the best so far: with so little gained, larger steps are not tried
TIME_LIMIT_S = 1.0  # large models: what has been measured by then must do
REPEATS = 3


def calibrate(decoder: Decoder) -> tuple[StepLimits, CostModel]:
    """Time prefill chunks of growing size.

    Returns:
        Limits whose ``tokens`` is the smallest chunk within 10% of the best time per token, and a
        cost model that has seen the measurements.
    """
    pool = CellPool(min(2 * SIZES[-1], decoder.max_positions))
    cells = CellTensors(decoder.layers, pool.num_cells, decoder.dtype, decoder.device)
    cells.zero()
    sequence = Sequence(pool)
    sequence.grow(pool.num_cells)

    def seconds(tokens: int, start: int) -> float:
        ids = [i % decoder.vocab_size for i in range(tokens)]
        began = time.perf_counter()
        step = Step.of([Part(sequence, start, ids, (tokens - 1,))], cells, decoder.device)
        Logits.of(decoder.forward(step), step.labels)
        return time.perf_counter() - began

    seconds(1, 0)  # the first forward allocates
    spent = 0.0  # what was measured: compiling kernels is no reason for short steps
    cost = CostModel()
    per_token: dict[int, float] = {}
    best = math.inf
    for tokens in [size for size in SIZES if size <= pool.num_cells]:
        # Far from the start, so that what reading cells costs shows as well.
        for start in (0, pool.num_cells - tokens):
            if decoder.device != "cpu":  # what it launches is compiled, then captured in a graph
                seconds(tokens, start), seconds(tokens, start)
            measured = [seconds(tokens, start) for _ in range(REPEATS)]
            took = min(measured)
            spent += sum(measured)
            for _ in range(REPEATS):
                cost.observe(tokens, tokens * start, took)
            if start == 0:
                per_token[tokens] = took / tokens
        settled = tokens > SMALLEST_STEP and per_token[tokens] > SETTLED * best
        best = min(best, per_token[tokens])
        if settled or spent > TIME_LIMIT_S:
            break
    chunk = next(tokens for tokens, each in per_token.items() if each <= ENOUGH * best)
    return StepLimits(tokens=max(chunk, SMALLEST_STEP)), cost
