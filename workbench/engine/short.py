"""Steps of few rows on a CPU: all layers in one compiled call, for models of a known build.

A step of one row runs some 200 small operations, and between them Python takes as long as many of
the operations do. Where the build of a model's layers is one that the compiled kernel knows, short
steps go through it; longer ones, and all other models, stay with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.cells.tensors import CellTensors, LayerShape
from workbench.engine.linear import PackedLinear
from workbench_kernels import native

# Builds that `native.Layers` runs: norms, gated SiLU and rotary embedding exactly as in these.
KNOWN = ("Llama", "Mistral", "Qwen2", "Qwen3")
PLAIN = ("gate_proj", "up_proj", "down_proj")  # products without a bias
FIRST_ANGLES = 4096  # positions to begin with
MOST_ROWS = native.MAX_ROWS


class Angles:
    """Cosines and sines of rotary embedding, computed by the model's own module, once per position.

    Torch computes even two rows of them with all its threads, and those then wait in a loop for
    more, on the cores that the compiled kernel needs.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        kind = str(getattr(module, "rope_type", "dynamic"))
        self._fixed = "dynamic" not in kind and kind != "longrope"  # those depend on the length
        self._cos = self._sin = torch.empty(0)

    def of(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[rows, dim]`` of positions ``[rows]``, as ``x``'s dtype."""
        if not self._fixed:
            cos, sin = self._module(x[None], positions[None])
            return cos[0].contiguous(), sin[0].contiguous()
        if (last := int(positions.max())) >= len(self._cos):
            count = max(2 * len(self._cos), last + 1, FIRST_ANGLES)
            cos, sin = self._module(x[None], torch.arange(count)[None])
            self._cos, self._sin = cos[0].contiguous(), sin[0].contiguous()
        return self._cos[positions], self._sin[positions]


class ShortSteps:
    """The layers of one model, ready for steps of at most `MOST_ROWS` rows."""

    def __init__(self, model: Any, layers: native.Layers) -> None:
        self._body, self._head = model.model, model.lm_head
        self._angles = Angles(model.model.rotary_emb)
        self._layers = layers
        self._cells: CellTensors | None = None
        self._planes: tuple[list[Tensor], list[Tensor]] = ([], [])

    @classmethod
    def of(cls, model: Any, shapes: Mapping[int, LayerShape]) -> ShortSteps | None:
        """Those of a model, or None where its build is not known or the kernel is not there.

        Args:
            model: a transformers model, its products packed.
            shapes: what each of its layers keeps, and the layer's window.
        """
        if not native.available() or not _is_known(model):
            return None
        layers = [
            native.LayerWeights(_tensors(layer), layer.self_attn.scaling, shapes[i].window)
            for i, layer in enumerate(model.model.layers)
        ]
        dim, eps = model.model.layers[0].self_attn.head_dim, model.config.rms_norm_eps
        try:
            return cls(model, native.Layers(layers, dim, eps))
        except ValueError:  # sizes that the kernel does not take
            return None

    def fits(self, step: Any) -> bool:
        """Whether a step is short enough."""
        return 0 < len(step.slots) <= MOST_ROWS

    def forward(self, step: Any) -> Tensor:
        """Run a step; logits ``[kept, vocab]``."""
        rows = len(step.slots)
        x = self._body.embed_tokens(step.ids[0, :rows])
        cos, sin = self._angles.of(x, step.positions[0, :rows])
        if self._cells is not step.cells:
            self._cells = step.cells
            order = range(len(step.cells.k))
            self._planes = ([step.cells.k[i] for i in order], [step.cells.v[i] for i in order])
        plans = [step.plan(window) for window in self._layers.windows]
        self._layers.run(x, cos, sin, step.slots, *self._planes, plans)
        logits: Tensor = self._head(self._body.norm(x[step.keep]))
        return logits


def _is_known(model: Any) -> bool:
    """Whether a model is built as the kernel assumes, with nothing attached to it."""
    name = type(model).__name__.removesuffix("ForCausalLM")
    home = f"transformers.models.{name.lower()}.modeling_{name.lower()}"
    if name not in KNOWN or type(model).__module__ != home:
        return False
    if model.device.type != "cpu" or model.dtype != torch.bfloat16:
        return False
    for m in model.modules():
        if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m):
            return False
    layers = model.model.layers
    return (
        model.config.hidden_act in ("silu", "swish")
        and {type(layer).__name__ for layer in layers} == {f"{name}DecoderLayer"}
        and all(type(m) is PackedLinear for layer in layers for m in _products(layer).values())
        and all(getattr(x.mlp, n).bias is None for x in layers for n in PLAIN)
    )


def _products(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return {
        "q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj,
        "out": attention.o_proj, "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj,
    }  # fmt: skip


def _tensors(layer: Any) -> dict[str, Tensor]:
    """A layer's weights by the kernel's names."""
    products = _products(layer)
    tensors = {name: module.packed for name, module in products.items()}
    tensors |= {f"{n}_bias": m.bias for n, m in products.items() if m.bias is not None}
    tensors |= {"before": layer.input_layernorm.weight}
    tensors |= {"after": layer.post_attention_layernorm.weight}
    for name in ("q_norm", "k_norm"):
        if (norm := getattr(layer.self_attn, name, None)) is not None:
            tensors[name] = norm.weight
    return {name: tensor.detach() for name, tensor in tensors.items()}
