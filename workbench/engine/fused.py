"""Steps on a GPU in ten launches a layer, for models of a known build.

Transformers' own code launches forty kernels in a layer, most of them for a few thousand numbers,
and a step of few rows waits for those instead of for its weights. Here the products of q, k and v
are one, those of gate and up another, and what lies between products is one kernel each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import workbench_kernels as kernels
from workbench.cells.tensors import LayerShape
from workbench.engine.builds import head_norms, is_known, products

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Layer:
    """One layer's weights, as the products take them.

    Attributes:
        shape: heads, dims and window.
        scale: factor on attention scores.
        qkv: ``[(heads + 2 * kv_heads) * dim, hidden]``; bias or None.
        out: ``[hidden, heads * dim]``; bias or None.
        gate_up: ``[2 * inner, hidden]``.
        down: ``[hidden, inner]``.
        norms: ``[dim]`` of the heads of q and of k, or None.
        after: ``[hidden]``, the norm after attention.
        then: ``[hidden]``, the norm after the layer: the next one's first, or the model's last.
    """

    shape: LayerShape
    scale: float
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    down: Tensor
    norms: tuple[Tensor, Tensor] | None
    after: Tensor
    then: Tensor


class FusedSteps:
    """The layers of one model; its modules keep their weights, as views of the joined ones."""

    def __init__(self, model: Any, shapes: Mapping[int, LayerShape]) -> None:
        body = model.model
        self._embed, self._rotary, self._head = body.embed_tokens, body.rotary_emb, model.lm_head
        self._eps = float(model.config.rms_norm_eps)
        self._first = body.layers[0].input_layernorm.weight.detach()
        firsts = [layer.input_layernorm for layer in body.layers]
        self._layers = [
            _layer(layer, shapes[i], then.weight.detach())
            for i, (layer, then) in enumerate(
                zip(body.layers, [*firsts[1:], body.norm], strict=True)
            )
        ]

    @classmethod
    def of(cls, model: Any, shapes: Mapping[int, LayerShape]) -> FusedSteps | None:
        """Those of a model, or None where its build is not known.

        Args:
            model: a transformers model on a device with Triton's kernels.
            shapes: what each of its layers keeps, and the layer's window.
        """
        if not is_known(model) or {p.dtype for p in model.parameters()} - {model.dtype}:
            return None
        if model.dtype not in DTYPES or not all(map(_is_plain, model.model.layers)):
            return None
        return cls(model, shapes)

    def forward(self, step: Any) -> Tensor:
        """Run a step; logits ``[kept, vocab]``, padded rows included."""
        x = self._embed(step.ids[0])
        cos, sin = (part[0] for part in self._rotary(x[None], step.positions))
        normed = kernels.norm(x, self._first, self._eps)
        for i, layer in enumerate(self._layers):
            q = self._queries(layer, normed, cos, sin, step, i)
            attended = kernels.attend(
                q, step.cells.k[i], step.cells.v[i], step.plan(layer.shape.window),
                scale=layer.scale,
            )  # fmt: skip
            delta = linear(attended.flatten(1), layer.out, layer.out_bias)
            normed = kernels.add_norm(x, delta, layer.after, self._eps)
            delta = linear(kernels.gate(linear(normed, layer.gate_up)), layer.down)
            normed = kernels.add_norm(x, delta, layer.then, self._eps)
        logits: Tensor = self._head(normed[step.keep])
        return logits

    def _queries(
        self, layer: Layer, normed: Tensor, cos: Tensor, sin: Tensor, step: Any, number: int
    ) -> Tensor:
        """Turned queries ``[rows, heads, dim]``; keys and values are in their cells."""
        heads, kv_heads, dim = layer.shape.heads, layer.shape.kv_heads, layer.shape.k_dim
        joined = linear(normed, layer.qkv, layer.qkv_bias).unflatten(1, (-1, dim))
        q, k, v = joined.split([heads, kv_heads, kv_heads], dim=1)
        return kernels.rotate_and_write(
            q, k, v, cos, sin, step.cells.k[number], step.cells.v[number], step.slots,
            layer.norms, self._eps,
        )  # fmt: skip


def _is_plain(layer: Any) -> bool:
    """Whether a layer's products can be joined."""
    modules = products(layer)
    biases = {modules[name].bias is None for name in "qkv"}
    return len(biases) == 1 and all(type(module) is nn.Linear for module in modules.values())


def _layer(layer: Any, shape: LayerShape, then: Tensor) -> Layer:
    p = products(layer)
    norms = [module.weight.detach() for module in head_norms(layer).values()]
    biases = [p[name].bias for name in "qkv"]
    return Layer(
        shape=shape,
        scale=float(layer.self_attn.scaling),
        qkv=_joined([p["q"], p["k"], p["v"]]),
        qkv_bias=None if biases[0] is None else torch.cat([bias.detach() for bias in biases]),
        out=p["out"].weight.detach(),
        out_bias=None if p["out"].bias is None else p["out"].bias.detach(),
        gate_up=_joined([p["gate"], p["up"]]),
        down=p["down"].weight.detach(),
        norms=(norms[0], norms[1]) if norms else None,
        after=layer.post_attention_layernorm.weight.detach(),
        then=then,
    )


def _joined(modules: Sequence[Any]) -> Tensor:
    """One matrix of several products' weights, of which theirs become views: none is held twice."""
    weights = [module.weight.detach() for module in modules]
    first, rows = weights[0], [len(weight) for weight in weights]
    if _one_after_another(weights):  # another engine has the same model
        return first.as_strided((sum(rows), first.shape[1]), first.stride())
    joined = torch.cat(weights)
    for module, part in zip(modules, joined.split(rows), strict=True):
        module.weight = nn.Parameter(part, requires_grad=False)
    return joined


def _one_after_another(weights: Sequence[Tensor]) -> bool:
    storage, at = weights[0].untyped_storage().data_ptr(), weights[0].storage_offset()
    for weight in weights:
        here = weight.untyped_storage().data_ptr() == storage and weight.storage_offset() == at
        if not here or not weight.is_contiguous():
            return False
        at += weight.numel()
    return True
