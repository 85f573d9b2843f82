"""A model's products with packed weights, for the compiled kernel: decoding is little else.

Packing takes the place of the weights as transformers has them: there is one copy. A packed module
computes the same products, for one row and for thousands, and ``weight`` gives the weights back.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.cells import pages
from workbench_kernels import native


class PackedLinear(nn.Module):
    """``nn.Linear`` without a gradient, its weights packed as `native.pack` does.

    Attributes:
        packed: the weights, bfloat16 ``[panels, in_features / 2, 2, 16, 2]``.
        bias: ``[out_features]`` or None.
    """

    def __init__(self, packed: nn.Parameter, bias: nn.Parameter | None, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = 2 * packed.shape[1], out_features
        self.packed = packed
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The weights ``[out_features, in_features]``, a copy."""
        return native.unpack(self.packed, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            return native.linear(x, self.packed, self.bias, self.out_features)
        return functional.linear(x, self.weight.to(x), self.bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        _save(self, destination, prefix)


class PackedEmbedding(nn.Module):
    """The ``nn.Embedding`` that a packed head is tied to: it reads rows of the packed weights."""

    def __init__(self, packed: nn.Parameter, num_embeddings: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, 2 * packed.shape[1]
        self.packed = packed

    @property
    def weight(self) -> Tensor:
        """The embeddings ``[num_embeddings, embedding_dim]``, a copy."""
        return native.unpack(self.packed, self.num_embeddings)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings ``[..., embedding_dim]`` of ids ``[...]``."""
        _, _, halves, lanes, _ = self.packed.shape
        panel, column = ids // (halves * lanes), ids % (halves * lanes)
        return self.packed[panel, :, column // lanes, column % lanes].flatten(-2)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        _save(self, destination, prefix)


def _save(module: Any, destination: Any, prefix: str) -> None:
    """What ``state_dict`` holds: as of the modules that were packed."""
    destination[prefix + "weight"] = module.weight
    if getattr(module, "bias", None) is not None:
        destination[prefix + "bias"] = module.bias.detach()


def pack(model: nn.Module) -> int:
    """Pack a CPU model's bfloat16 products in place, in large pages; no weight is held twice.

    Returns how many modules were changed; 0 where the kernel is not available.
    """
    if not native.available():
        return 0
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _fits(child)
    ]
    tied = _tied(model)
    shapes = {
        child.weight.data_ptr(): native.packed_shape(*child.weight.shape)
        for child in (getattr(*place) for place in places)
    }
    arena = pages.empty([sum(map(math.prod, shapes.values()))], torch.bfloat16)
    made: dict[int, nn.Parameter] = {}
    at = 0
    for parent, name in places:
        child = getattr(parent, name)
        source = child.weight.data_ptr()
        if source not in made:
            room = arena[at : at + math.prod(shapes[source])].view(shapes[source])
            made[source] = nn.Parameter(native.pack(child.weight, room), requires_grad=False)
            at += room.numel()
        setattr(parent, name, PackedLinear(made[source], child.bias, child.out_features))
        for holder, its_name, length in tied.get(source, ()):
            setattr(holder, its_name, PackedEmbedding(made[source], length))
    return len(places)


def _fits(layer: nn.Linear) -> bool:
    weight = layer.weight
    on_cpu = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    return on_cpu and weight.shape[1] % native.INNER == 0 and _untouched(layer)


def _untouched(module: nn.Module) -> bool:
    """Whether nobody has attached anything, which a packed module would lose."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and "forward" not in vars(module)


def _tied(model: nn.Module) -> dict[int, list[tuple[nn.Module, str, int]]]:
    """By address of their weights: embeddings, where they are and how long. Other kinds of
    embedding keep weights of their own."""
    found: dict[int, list[tuple[nn.Module, str, int]]] = {}
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Embedding and _untouched(child):
                place = (parent, name, child.num_embeddings)
                found.setdefault(child.weight.data_ptr(), []).append(place)
    return found
