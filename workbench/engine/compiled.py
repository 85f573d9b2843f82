"""Steps on a CPU: all layers in one compiled call, for models of a known build.

A step of one row runs some 200 small operations, and between them Python takes as long as many of
the operations do. Where the build of a model's layers is one that the compiled kernel knows, its
steps go through it; all other models stay with transformers' own code.

What torch still does here, it does on the calling thread: threads it would begin wait for more in a
loop afterwards, on the cores that the kernel needs, and take milliseconds to end once they sleep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.cells.tensors import CellTensors, LayerShape
from workbench.engine.builds import head_norms, is_known, products
from workbench.engine.linear import PackedLinear
from workbench_kernels import native

FIRST_ANGLES = 4096  # positions to begin with


class Angles:
    """Cosines and sines of rotary embedding, from the model's own module, once per position."""

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


class CompiledSteps:
    """The layers of one model, ready to run."""

    def __init__(self, model: Any, layers: native.Layers) -> None:
        self._body, self._head = model.model, model.lm_head
        self._angles = Angles(model.model.rotary_emb)
        self._layers = layers
        self._cells: CellTensors | None = None
        self._planes: tuple[list[Tensor], list[Tensor]] = ([], [])

    @classmethod
    def of(cls, model: Any, shapes: Mapping[int, LayerShape]) -> CompiledSteps | None:
        """Those of a model, or None where its build is not known or the kernel is not there.

        Args:
            model: a transformers model, its products packed.
            shapes: what each of its layers keeps, and the layer's window.
        """
        if not native.available() or not is_known(model) or not _is_packed(model):
            return None
        last = model.model.norm.weight
        if last.dtype != torch.bfloat16 or not last.is_contiguous():
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

    def forward(self, step: Any) -> Tensor:
        """Run a step; logits ``[kept, vocab]``, float32."""
        rows = len(step.slots)
        with native.alone():
            x = self._body.embed_tokens(step.ids[0, :rows])
            cos, sin = self._angles.of(x, step.positions[0, :rows])
        if self._cells is not step.cells:
            self._cells = step.cells
            order = range(len(step.cells.k))
            self._planes = ([step.cells.k[i] for i in order], [step.cells.v[i] for i in order])
        plans = [step.plan(window) for window in self._layers.windows]
        self._layers.run(x, cos, sin, step.slots, *self._planes, plans)
        last = self._body.norm
        kept = native.norm_rows(x, step.keep, last.weight, last.variance_epsilon)
        logits: Tensor = self._head(kept)
        with native.alone():
            return logits.float()


def _is_packed(model: Any) -> bool:
    """Whether its products are the compiled kernel's."""
    return (
        model.device.type == "cpu"
        and model.dtype == torch.bfloat16
        and all(type(m) is PackedLinear for x in model.model.layers for m in products(x).values())
    )


def _tensors(layer: Any) -> dict[str, Tensor]:
    """A layer's weights by the kernel's names."""
    modules = products(layer)
    tensors = {name: module.packed for name, module in modules.items()}
    tensors |= {f"{n}_bias": m.bias for n, m in modules.items() if m.bias is not None}
    tensors |= {"before": layer.input_layernorm.weight}
    tensors |= {"after": layer.post_attention_layernorm.weight}
    tensors |= {name: module.weight for name, module in head_norms(layer).items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}
