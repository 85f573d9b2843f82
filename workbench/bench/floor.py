"""The least time an answer can take on a machine: the bytes it must read, at measured bandwidth.

Every forward pass reads each weight once (but of the embedding table only a few rows) and the keys
and values of every token before it. Arithmetic, writing and everything else count as free, so no
engine gets below this.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel


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
        table = model.get_input_embeddings().weight
        head = model.get_output_embeddings()
        is_tied = head is not None and head.weight is table
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
