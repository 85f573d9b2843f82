"""The least time of an answer by the roofline model: what it must read, or must compute.

The bandwidth floor (`floor`) counts arithmetic as free. One token against all weights waits for
memory, so for later tokens of an answer that is near the truth; sixteen tokens of a question are
sixteen times the arithmetic for the same bytes. Here each forward takes the longer of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from workbench.engine.floor import EXPERTS, Floor, shapes_of, share_of_experts


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations of a model; a multiplication and an addition are two.

    Attributes:
        token: of one token with all weights that it uses, but for the head's.
        head: of one token with the head's.
        seen: of one token, for each token before it that a layer sees: that many of them at most
            (None: all), and the operations of all such layers.
    """

    token: int
    head: int
    seen: tuple[tuple[int | None, int], ...]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Arithmetic:
        """Those of a loaded transformers decoder."""
        config = model.config.get_text_config(decoder=True)
        table = next(model.get_input_embeddings().parameters())
        head = next(iter(model.get_output_embeddings().parameters()))
        share = share_of_experts(config)
        used = sum(
            p.numel() * (share if EXPERTS.search(name) else 1)
            for name, p in model.named_parameters()
            if p.ndim > 1 and p is not table and p is not head
        )
        seen: dict[int | None, int] = {}
        for shape in shapes_of(config):
            own = 2 * shape.heads * (shape.k_dim + shape.v_dim)
            seen[shape.window] = seen.get(shape.window, 0) + own
        return cls(int(2 * used), 2 * head.numel(), tuple(seen.items()))

    def flops(self, context: int, tokens: int) -> int:
        """Of a forward pass of ``tokens`` tokens after ``context`` others; one row of logits."""
        total = tokens * self.token + self.head
        for window, own in self.seen:
            places = range(context + 1, context + tokens + 1)
            total += own * sum(place if window is None else min(place, window) for place in places)
        return total


@dataclass(frozen=True)
class Roofline:
    """A model on a machine.

    Attributes:
        floor, arithmetic: the model's.
        bandwidth: bytes per second.
        flops_per_s: floating-point operations per second.
    """

    floor: Floor
    arithmetic: Arithmetic
    bandwidth: float
    flops_per_s: float

    def ms(self, context: int, question: int, forwards: int) -> float:
        """The least milliseconds of an answer.

        Args:
            context: tokens that are in the cache before the question.
            question: tokens of the question, all run in the first forward.
            forwards: how many there are; each after the first adds one token.
        """
        total = 0.0
        for step in range(forwards):
            before = context if step == 0 else context + question + step - 1
            tokens = question if step == 0 else 1
            read = self.floor.bytes_read(before, tokens, 1) / self.bandwidth
            total += max(read, self.arithmetic.flops(before, tokens) / self.flops_per_s)
        return 1e3 * total
