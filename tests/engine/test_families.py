"""Families that the README names beyond those of `FAMILIES`: each loads, and its answers recompute.

Tiny configurations of transformers' own classes, in float32; see test_truth.py for the bound.
"""

import pytest

import workbench as wb
from workbench.scheduler.scheduler import StepLimits
from workbench.testing import assert_recomputes, poison_free_cells, run_until_idle, tiny_model

BOUND = 5e-5
OTHERS = {
    "phi": {},
    "phi3": {"original_max_position_embeddings": 4096},
    "olmo": {},
    "olmo2": {},
    "granite": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "deepseek_v3": {
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
        "head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", OTHERS)
def test_it_loads_and_its_answers_recompute(family):
    model = tiny_model(family, **OTHERS[family])
    limits = StepLimits(tokens=13)
    with wb.Engine(model, cells=2048, limits=limits, start=False) as engine:
        poison_free_cells(engine)
        session = engine.open("s", prompt="watch", cells=300)
        session.push(["the quick brown fox", "jumps over the lazy dog"])
        run_until_idle(engine)
        fork = session.fork("what-if")
        fork.push("and sleeps")
        answers = [
            session.ask_start("what now?", max_tokens=4),
            session.ask_start("which?", choices=["up", "down"], at=wb.row(1)),
            fork.ask_start("what now?", max_tokens=4),
        ]
        run_until_idle(engine)
        for answer in answers:
            assert_recomputes(model[0], answer, BOUND, engine.tokens)
