"""A Llama with random weights, made on the spot: timings depend on its shape, not on what it says.

Its matrices keep the size of what they multiply, and its queries and keys are scaled so that
attention is peaked, as a trained model's is. With the usual initial weights it would be close to an
average over the context, and an equality check could not tell a right cache from a wrong one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging

from workbench.errors import WorkbenchError
from workbench.tape import weights_path
from workbench.waiting import aside

TAPE = "tape"
MAX_LENGTHS = {"8b": 140_000, "250m": 131_072}  # positions, where there are more than usual
PEAK = 3**0.5  # factor on queries and on keys: attention scores spread by its square

SIZES: dict[str, dict[str, int]] = {
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
    },
    "250m": {
        "hidden_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 3072,
        "vocab_size": 32_000,
    },
    "30m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1536,
        "vocab_size": 8000,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 4096,
    },
}

MODELS = (TAPE, *SIZES)


def make_model(
    folder: Path, size: str = "250m", seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """Save a model of ``size`` and a tokenizer into ``folder``, as ``from_pretrained`` takes them.

    Weights are bfloat16, drawn on ``device``: a GPU draws large ones in seconds, but other numbers.
    The tokenizer is the embedded model's, without an end-of-text token: no answer ends before its
    last token.

    Returns:
        The shape, with the number of parameters and the seed.
    """
    shape: dict[str, Any] = dict(SIZES[size])
    config = LlamaConfig(
        **shape,
        max_position_embeddings=MAX_LENGTHS.get(size, 32_768),
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
        initializer_range=shape["hidden_size"] ** -0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        dtype=torch.bfloat16,
    )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= PEAK
            layer.self_attn.k_proj.weight *= PEAK
    with quiet():
        model.bfloat16().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    tokenizer.eos_token = None
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    del model
    if device != "cpu":
        torch.cuda.empty_cache()
    return {"name": f"random Llama, {size}", "parameters": parameters, "seed": seed, **shape}


@contextlib.contextmanager
def model_folder(name: str, seed: int = 0) -> Iterator[Path]:
    """The folder of a model by name; one made on the spot is gone afterwards.

    Args:
        name: "tape", the embedded model, or a key of `SIZES`.
        seed: of random weights.

    Raises:
        WorkbenchError: no such model.
    """
    if name == TAPE:
        yield Path(weights_path())
        return
    if name not in SIZES:
        msg = f"model {name!r}: expected one of {', '.join(MODELS)}"
        raise WorkbenchError(msg)
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        aside(lambda: make_model(Path(folder), name, seed))
        yield Path(folder)


def load_plain(folder: Path, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """The model in ``folder`` as anyone loads it, with torch's own attention."""
    with quiet():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
    return model.to(device).eval()  # type: ignore[arg-type]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of saving and loading weights: they take a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
