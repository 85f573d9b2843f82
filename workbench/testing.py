"""What tests of this project, and of those built on it, need: tiny models, exact comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.engine.engine import StepEngine
from workbench.engine.tokens import Tokens
from workbench.errors import Cancelled, SessionClosed

# Families whose equality with plain transformers the tests prove; sizes of a few thousand weights.
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt_oss")

_SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 4096, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip

_OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 9},
    "gemma2": {
        "sliding_window": 9, "num_hidden_layers": 3, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gemma3_text": {
        "sliding_window": 9, "num_hidden_layers": 3, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt_oss": {
        "sliding_window": 9, "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}  # fmt: skip


def tiny_model(
    family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any
) -> tuple[Any, Any]:
    """A random-weight model of a Hugging Face family, and a byte tokenizer for it.

    Weights are drawn wide enough that logits differ clearly between tokens. ``config`` overrides
    the sizes. Pass the pair to ``Engine``, or ``save_pretrained`` both into one folder.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**_SIZES, **_OWN.get(family, {}), **config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=dtype)
        for name, weight in model.named_parameters():
            with torch.no_grad():
                if weight.dim() > 1:
                    weight.normal_(0, 1.5 * weight.shape[-1] ** -0.5)
                elif "norm" not in name:
                    weight.normal_(0, 0.3)
    return model.eval(), byte_tokenizer()


def byte_tokenizer(chat_template: str | None = None) -> Any:
    """One token per byte of UTF-8, ids 0 to 255, then ``<s>``, ``</s>`` and ``<pad>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab = {symbol: i for i, symbol in enumerate(sorted(alphabet))}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def plain_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Float32 logits ``[len(ids), vocab]`` of plain transformers over the whole log at once.

    With transformers' own eager attention and no cache: the truth the engine is held to.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            tokens = torch.tensor([list(ids)], device=model.device)
            return model(tokens, use_cache=False).logits[0].float().cpu()
    finally:
        model.set_attn_implementation(before)


def assert_recomputes(model: Any, answer: Any, bound: float, tokens: Tokens | None = None) -> None:
    """Recompute an answer from its ``input_ids`` with plain transformers, and compare.

    Every token's log-probability agrees within ``bound``, and each greedy token is the likeliest
    wherever the margin to the second is above twice the bound. With ``tokens``, an engine's, all
    choices of a closed question are recomputed, not the chosen one alone. An answer that failed
    is wrong; one that was ended, by a cancel or with its session, is compared as far as it came.
    """
    assert answer.done, f"the answer to {answer.question!r} is not complete"
    ended = isinstance(answer.error, Cancelled | SessionClosed)
    assert ended or answer.error is None, answer.error
    if ended and not answer.token_ids:
        return
    assert answer.token_ids, f"the answer to {answer.question!r} has no tokens"
    if answer.choice is not None and tokens is not None:
        _assert_choices_recompute(model, answer, bound, tokens)
    ids = [*answer.input_ids, *answer.token_ids]
    logprobs = torch.log_softmax(plain_logits(model, ids), dim=-1)
    first = len(answer.input_ids) - 1
    for i, (token, got) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        row = logprobs[first + i]
        want = row[token].item()
        assert abs(got - want) <= bound, f"token {i}: log-probability {got}, plain {want}"
        if answer.choice is None:
            top = row.topk(2)
            margin = (top.values[0] - top.values[1]).item()
            assert margin <= 2 * bound or int(top.indices[0]) == token, f"token {i} is not greedy"


def _assert_choices_recompute(model: Any, answer: Any, bound: float, tokens: Tokens) -> None:
    """Every choice's share of the probability, which all of their tokens' sums make."""
    choices = tokens.choices(list(answer.probabilities))
    first, totals = len(answer.input_ids) - 1, []
    for ids in choices:
        rows = torch.log_softmax(plain_logits(model, [*answer.input_ids, *ids]), dim=-1)
        totals.append(math.fsum(rows[first + i, token].item() for i, token in enumerate(ids)))
    wanted = torch.log_softmax(torch.tensor(totals, dtype=torch.float64), dim=0).tolist()
    most = 2 * bound * max(map(len, choices))  # of a sum, and of the sum that shares are of
    for (choice, chance), want in zip(answer.probabilities.items(), wanted, strict=True):
        off = abs(math.log(chance) - want)
        assert off <= most, f"choice {choice!r}: probability {chance}, plain {math.exp(want)}"


def poison_free_cells(engine: StepEngine) -> None:
    """Put NaN into every cell that nothing holds: an answer that reads one shows it."""
    engine.cells.fill(engine.pool.free_cells(), torch.nan)


def check_books(engine: StepEngine) -> None:
    """The pool's invariants, and that no cell is lost once every question has ended."""
    engine.pool.check(engine.core.held_spans())


def run_until_idle(engine: StepEngine) -> int:
    """Step an engine that has no thread until nothing is left to run."""
    steps = 0
    while engine.step():
        steps += 1
    return steps
