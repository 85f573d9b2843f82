"""What everyone reads: a seeded stream of bars and a question, as one list of token ids for all."""

from __future__ import annotations

import itertools
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

KINDS = (  # of question: what is before a number, and after it
    ("Is the trend up or down over", "bars?"),
    ("Did volume rise over the last", "bars?"),
    ("What was the highest close of", "bars?"),
    ("How wide is the range of", "bars?"),
    ("Was there a gap in these", "bars?"),
    ("Which side is stronger after", "bars?"),
    ("Say if bar", "closed above its open."),
    ("Compare the open with bar", "please."),
)
MOST_OF_A_KIND = 10_000


@dataclass(frozen=True)
class Material:
    """Token ids that every system gets.

    Attributes:
        context: prompt and bars.
        lengths: by context asked for, its tokens up to the end of a bar.
        question: the question's ids, with the end of its turn.
        words: the same as text.
        questions: different questions of as many tokens, for who asks several.
        questions_words: the same as texts.
        choices: ids of the two closed answers, one token each.
        labels: the same as text.
        tokens: the tokenizer.
        seed: of the stream.
    """

    context: list[int]
    lengths: dict[int, int]
    question: list[int]
    words: str
    questions: list[list[int]]
    questions_words: list[str]
    choices: list[int]
    labels: tuple[str, ...]
    tokens: Tokens
    seed: int

    def fresh(self, part: int = 0) -> Iterator[list[int]]:
        """Bars that are not in the context, without end; the same ones each time.

        Another ``part`` of the race has others: nothing an engine kept of one helps in the next.
        """
        schema = schema_for(SCHEMA)
        for row in bars(self.seed + (part + 1) * 1_000_003):
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


def make_material(
    folder: Path, contexts: tuple[int, ...], seed: int, questions: int = 1
) -> Material:
    """Render and tokenize a stream with the tokenizer of the model in ``folder``.

    Args:
        folder: of the model.
        contexts: tokens, ascending.
        seed: of the stream.
        questions: how many different ones there are to be.

    Raises:
        WorkbenchError: a closed answer is more than one token, or there are not so many questions
            of the right length.
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
    several = different(tokens, questions, QUESTION_TOKENS)
    return Material(
        context=context, lengths=lengths, question=tokens.question(words), words=words,
        questions=[tokens.question(text) for text in several], questions_words=several,
        choices=[ids[0] for ids in choices], labels=UP_DOWN, tokens=tokens, seed=seed,
    )  # fmt: skip


def different(tokens: Tokens, num: int, length: int) -> list[str]:
    """Questions of ``length`` tokens each that differ from their first words on.

    An engine that mixes one question's cache with another's is to be seen.

    Raises:
        WorkbenchError: there are fewer.
    """
    by_kind = [list(itertools.islice(_of_kind(tokens, *kind, length), num)) for kind in KINDS]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind))
    found = list(itertools.islice((text for text in in_turn if text is not None), num))
    if len(found) < num:
        msg = f"expected {num} questions of {length} tokens, found {len(found)}"
        raise WorkbenchError(msg)
    return found


def _of_kind(tokens: Tokens, start: str, end: str, length: int) -> Iterator[str]:
    """Those of one kind, with numbers of as many digits as it takes; none if there are none."""
    for digits in range(1, length):
        number = int("1" * digits)
        if len(tokens.question(f"{start} {number} {end}")) != length:
            continue
        for other in range(number, min(10**digits, number + MOST_OF_A_KIND)):
            text = f"{start} {other} {end}"
            if len(tokens.question(text)) == length:
                yield text
        return
