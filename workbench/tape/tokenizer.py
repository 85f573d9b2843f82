"""The embedded model's tokenizer: numbers in groups of up to three digits, pairs for words.

Digits are grouped from the point, as people group thousands: ``68123`` is ``68`` ``123``,
``101.70`` is ``101`` ``.70``, ``1.0182`` is ``1`` ``.018`` ``2``. So a price is
two or three tokens, and two prices of one size compare group by group. A newline is always a token
of its own: the rows of two pushes, encoded apart, give the tokens of both encoded together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, ANSWER = "<|pad|>", "<s>", "</s>", "<|answer|>"
WORDS = 1100  # specials, bytes and pairs; the numbers come on top
MAX_LENGTH = 16_384

_PIECES = (
    r"(?<=[0-9])\.[0-9]{1,3}"
    r"|(?<=[0-9]\.[0-9]{3})[0-9]{1,3}"
    r"|[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))"
    r"|\n"
    r"| ?\p{L}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|[^\S\n]+(?!\S)|[^\S\n]"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ message['content'] }}"
    "{% else %}{{ '<|answer|>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|answer|>' }}{% endif %}"
)


def number_tokens() -> list[str]:
    """Every group of digits that is one token, a fraction's first group with its point."""
    groups = [f"{n:0{size}d}" for size in (1, 2, 3) for n in range(10**size)]
    return groups + ["." + group for group in groups]


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose pairs of letters and signs are learned from ``texts``."""
    core = Tokenizer(models.BPE(byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        (re.sub(r"\.?[0-9]+", "\n", text) for text in texts),
        trainers.BpeTrainer(
            vocab_size=WORDS,
            special_tokens=[PAD, BOS, EOS, ANSWER],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            min_frequency=8,
            show_progress=False,
        ),
    )
    written = json.loads(core.to_str())
    vocabulary = written["model"]["vocab"]
    for token in number_tokens():
        vocabulary.setdefault(token, len(vocabulary))
    written["model"]["ignore_merges"] = True  # a group of digits is looked up whole
    return as_fast(json.dumps(written))


def as_fast(written: str) -> PreTrainedTokenizerFast:
    """The tokenizer that transformers uses of one ``written`` as JSON."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(written),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[ANSWER],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def number_features() -> torch.Tensor:
    """What each of `number_tokens` is worth, float32 [tokens, features], rows of length one.

    Waves of its value (as a fraction of its group) at several scales, and its kind. Embeddings
    that begin as a projection of these have the order of numbers in them from the first step.
    """
    rows = []
    for token in number_tokens():
        digits = token.lstrip(".")
        share = int(digits) / 10 ** (len(digits) if token[0] == "." else 3)
        waves = [
            scale * wave(2 * math.pi * rate * share)
            for rate, scale in ((0.25, 2.0), (0.5, 1.5), (1, 1), (2, 1), (5, 1), (10, 1), (50, 0.7))
            for wave in (math.sin, math.cos)
        ]
        kind = [float(token[0] == "."), *(0.5 * float(len(digits) == n) for n in (1, 2, 3))]
        last = [0.5 * float(int(digits[-1]) == n) for n in range(10)]
        rows.append([*waves, *kind, *last])
    made = torch.tensor(rows)
    return made / made.norm(dim=1, keepdim=True)
