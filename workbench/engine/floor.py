"""The least time an answer can take on a machine: the bytes it must read, at measured bandwidth.

Every forward pass reads each weight once (but of the embedding table only a few rows) and the keys
and values of every token before it. Arithmetic, writing and everything else count as free, so no
engine gets below this.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

NEIGHBOURS = 128  # bytes between two weights that are read as one
SPELL = 3  # readings in a row; a process that has just been idle is slow for the first


@dataclass(frozen=True)
class Floor:
    """What one forward pass of a model must read.

    Attributes:
        weight_bytes: all weights that every forward uses.
        kv_bytes_per_token: keys and values of one token, in all layers.
    """

    weight_bytes: int
    kv_bytes_per_token: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Floor:
        """The floor of a loaded transformers decoder."""
        config = model.config.get_text_config(decoder=True)
        table = next(model.get_input_embeddings().parameters())
        head = model.get_output_embeddings()
        is_tied = head is not None and any(p is table for p in head.parameters())
        weights = [p for p in model.parameters() if p is not table or is_tied]
        heads = config.num_key_value_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            weight_bytes=sum(p.nbytes for p in weights),
            kv_bytes_per_token=2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize,
        )

    def bytes_read(self, context: int, question: int, forwards: int) -> int:
        """Bytes that an answer must read.

        Args:
            context: tokens that are in the cache before the question.
            question: tokens of the question, all run in the first forward.
            forwards: how many there are; each after the first adds one token.
        """
        tokens = sum(context + question + step for step in range(forwards))
        return forwards * self.weight_bytes + self.kv_bytes_per_token * tokens

    def ms(self, context: int, question: int, forwards: int, bandwidth: float) -> float:
        """The same in milliseconds, at ``bandwidth`` bytes per second."""
        return self.bytes_read(context, question, forwards) / bandwidth * 1e3


def weights_bandwidth(
    weights: Sequence[Tensor],
    repeats: int = 9,
    pick: Callable[[Sequence[float]], float] = statistics.median,
) -> float:
    """Bytes per second that torch's threads read these very tensors, all of them in turn.

    A virtual machine's memory is not all equally fast, so what a model can do at best depends on
    where its weights came to lie.

    Args:
        weights: what is read.
        repeats: readings, after some that are not counted.
        pick: which of their seconds counts; ``min`` on a machine that does other things too.
    """
    words = _stretches(weights)
    taken = []
    for _ in range(SPELL + repeats):
        began = time.perf_counter()
        for part in words:
            part.amax()
        if words and words[0].is_cuda:
            torch.cuda.synchronize(words[0].device)
        taken.append(time.perf_counter() - began)
    return sum(part.nbytes for part in words) / pick(taken[SPELL:])


def _stretches(weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights as words; those that lie side by side as one, so that few calls read them all."""
    spans: list[list[int]] = []  # start and end in bytes, and a weight whose storage it is
    order = sorted(range(len(weights)), key=lambda i: weights[i].data_ptr())
    for i in order:
        start, storage = weights[i].data_ptr(), weights[i].untyped_storage().data_ptr()
        end = start + weights[i].nbytes
        last = spans[-1] if spans else [0, -NEIGHBOURS, i]
        same = weights[last[2]].untyped_storage().data_ptr() == storage
        if same and start - last[1] < NEIGHBOURS:
            last[1] = max(last[1], end)
        else:
            spans.append([start, end, i])
    found = []
    for start, end, i in spans:
        whole = torch.empty(0, dtype=torch.uint8, device=weights[i].device)
        held = weights[i].untyped_storage()
        whole.set_(held, start - held.data_ptr(), (end - start,), (1,))
        found.append(whole[: (end - start) // 4 * 4].view(torch.int32))
    return found
