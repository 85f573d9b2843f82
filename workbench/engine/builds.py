"""Models whose layers are built as our own code for whole layers assumes, and the parts of one."""

from __future__ import annotations

from typing import Any

# Norms, gated SiLU and rotary embedding exactly as in these.
KNOWN = ("Llama", "Mistral", "Qwen2", "Qwen3")
PLAIN = ("gate_proj", "up_proj", "down_proj")  # products without a bias


def is_known(model: Any) -> bool:
    """Whether a model is one of these builds, as transformers has it, nothing attached to it."""
    name = type(model).__name__.removesuffix("ForCausalLM")
    home = f"transformers.models.{name.lower()}.modeling_{name.lower()}"
    if name not in KNOWN or type(model).__module__ != home:
        return False
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False
    layers = model.model.layers
    return (
        model.config.hidden_act in ("silu", "swish")
        and {type(layer).__name__ for layer in layers} == {f"{name}DecoderLayer"}
        and {type(layer.mlp).__name__ for layer in layers} == {f"{name}MLP"}
        and all(getattr(layer.mlp, n).bias is None for layer in layers for n in PLAIN)
    )


def products(layer: Any) -> dict[str, Any]:
    """A layer's seven products by short names."""
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj,
        "out": attention.o_proj, "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj,
    }  # fmt: skip


def head_norms(layer: Any) -> dict[str, Any]:
    """The norms of each head of q and of k, where a build has them."""
    found = {name: getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm")}
    return {name: module for name, module in found.items() if module is not None}
