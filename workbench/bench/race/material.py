"""What everyone reads: a seeded stream of bars and a question, as one list of token ids for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from workbench.bench.contenders import PROMPT, QUESTION_TOKENS, UP_DOWN, question_of
from workbench.bench.stream import SCHEMA, bars
from workbench.engine.tokens import Tokens
from workbench.errors import WorkbenchError
from workbench.streams.render import schema_for


@dataclass(frozen=True)
class Material:
    """Token ids that every system gets.

    Attributes:
        context: prompt and bars.
        lengths: by context asked for, its tokens up to the end of a bar.
        question: the question's ids, with the end of its turn.
        words: the same as text.
        choices: ids of the two closed answers, one token each.
        labels: the same as text.
        tokens: the tokenizer.
        seed: of the stream.
    """

    context: list[int]
    lengths: dict[int, int]
    question: list[int]
    words: str
    choices: list[int]
    labels: tuple[str, ...]
    tokens: Tokens
    seed: int

    def fresh(self) -> Iterator[list[int]]:
        """Bars that are not in the context, without end; the same ones each time."""
        schema = schema_for(SCHEMA)
        for row in bars(self.seed + 1_000_003):
            yield self.tokens.data(schema.render([row]))

    def write(self, path: Path) -> None:
        """Write what peers read."""
        content = {
            "context": self.context,
            "prompt": PROMPT,
            "schema": SCHEMA,
            "question_words": self.words,
            "labels": self.labels,
        }
        path.write_text(json.dumps(content))


def make_material(folder: Path, contexts: tuple[int, ...], seed: int) -> Material:
    """Render and tokenize a stream with the tokenizer of the model in ``folder``.

    Raises:
        WorkbenchError: a closed answer is more than one token.
    """
    tokens = Tokens(AutoTokenizer.from_pretrained(folder), [])
    schema = schema_for(SCHEMA)
    context = tokens.head(PROMPT)
    lengths: dict[int, int] = {}
    rows = bars(seed)
    for wanted in contexts:
        while len(context) < wanted:
            context += tokens.data(schema.render([next(rows)]))
        lengths[wanted] = len(context)
    choices = [tokens.choice(label) for label in UP_DOWN]
    if any(len(ids) != 1 for ids in choices):
        msg = f"expected the answers {UP_DOWN} to be one token each, got {choices}"
        raise WorkbenchError(msg)
    words = question_of(tokens, QUESTION_TOKENS)
    return Material(
        context=context, lengths=lengths, question=tokens.question(words), words=words,
        choices=[ids[0] for ids in choices], labels=UP_DOWN, tokens=tokens, seed=seed,
    )  # fmt: skip
