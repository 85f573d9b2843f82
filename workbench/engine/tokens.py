"""Text to ids and back: the session's head, its rows, a question and its end."""

from __future__ import annotations

import copy
import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from workbench.errors import ModelError, QuestionError, RowError

# Stands for the caller's words while a chat template is rendered; no template changes it.
_PROMPT, _DATA = "\u2039workbench-prompt\u203a", "\u2039workbench-data\u203a"
LATEST = 64  # ids of an answer that decide how the next one reads
UNFINISHED = "\ufffd"  # what decodes to it may be part of a character


class Tokens:
    """A tokenizer, split at the places where the engine joins text.

    A session reads ``head(prompt)`` and then its rows; a question's branch reads
    ``question(words)``. With a chat template the rows sit in one open user turn, and a question
    ends that turn and opens the reply. Only the template's own text is parsed for special tokens:
    what looks like one inside a prompt, a row or a question is plain text.

    Args:
        tokenizer: a Hugging Face tokenizer.
        eos_ids: what ends a reply.
        template: what its chat template is told besides the messages.

    Raises:
        ModelError: it has no chat template, or that does not take what it is told.
    """

    def __init__(
        self, tokenizer: Any, eos_ids: list[int], template: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._told = _template_options(tokenizer, template or {})
        # One that never parses special tokens; the switch is state of the tokenizer, so two threads
        # must not flip it on the same one.
        self._plain = copy.deepcopy(tokenizer)
        self.eos_ids = frozenset(eos_ids)
        self._end = self._reply_end(eos_ids)
        self._tail = self._split_template(with_prompt=False)[-1]

    @cached_property
    def fingerprint(self) -> str:
        """Names the tokenizer: its vocabulary, and how it cuts a text with a bit of everything."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        sample = self.data("Ab  12.5,-3\n\tup \u00e9\u4e2d\U0001f600 <s>")
        return hashlib.sha256(repr((vocabulary, sample)).encode()).hexdigest()

    def head(self, prompt: str | None) -> list[int]:
        """The ids a session begins with, before any row."""
        *texts, _ = self._split_template(with_prompt=prompt is not None)
        if len(texts) == 1 or prompt is None:
            return self._parse(texts[0])
        return [*self._parse(texts[0]), *self.data(prompt), *self._parse(texts[1])]

    def data(self, text: str) -> list[int]:
        """Ids of text that comes from outside; nothing in it is a special token.

        Raises:
            RowError: it is not valid Unicode.
        """
        self._check_unicode(text)
        ids = self._plain(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return list(ids)

    def rows(self, texts: list[str]) -> tuple[list[int], list[int]]:
        """Ids of rows that are read as one text, and where among the ids each row begins.

        -1 stands for a row that begins inside a token, as some tokenizers join a newline with what
        follows it, or of which a slow tokenizer does not say.

        Raises:
            RowError: they are not valid Unicode.
        """
        text = "".join(texts)
        if len(texts) < 2 or not self._plain.is_fast:
            return self.data(text), [0, *[-1] * (len(texts) - 1)]
        self._check_unicode(text)
        encoded = self._plain(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        places = [start for start, _ in encoded["offset_mapping"]]
        starts, at = [], 0
        for row in texts:
            index = bisect_left(places, at)
            starts.append(index if index < len(places) and places[index] == at else -1)
            at += len(row)
        return list(encoded["input_ids"]), starts

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt that is asked on its own: a user's turn, and the opening of the reply."""
        return [*self.head(None), *self.question(text)]

    def question(self, words: str) -> list[int]:
        """Ids of a question with the end of its turn and the opening of the reply."""
        if not words.strip():
            msg = "the question is empty; expected some words"
            raise QuestionError(msg)
        return [*self.data(words), *self._parse(self._tail)]

    def choices(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of closed answers. Where one is how another begins, each is meant with its end: else
        the shorter one could only be likelier.

        Raises:
            QuestionError: one has no tokens, or two have the same.
        """
        found = [self.choice(text) for text in texts]
        for text, ids in zip(texts, found, strict=True):
            same = next(other for other, its in zip(texts, found, strict=True) if its == ids)
            if same != text:
                msg = (
                    f"choices {same!r} and {text!r} are the same to this model's tokenizer; "
                    "expected different ones"
                )
                raise QuestionError(msg)
        begins = any(a is not b and b[: len(a)] == a for a in found for b in found)
        return [[*ids, *self._end] for ids in found] if begins else found

    def choice(self, text: str) -> list[int]:
        """Ids of one closed answer, as it would follow the question."""
        ids = self.data(text) if isinstance(text, str) else []
        if not ids:
            msg = f"choice {text!r} has no tokens; expected a non-empty text"
            raise QuestionError(msg)
        return ids

    def text(self, ids: list[int]) -> str:
        """Ids back to text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _check_unicode(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            msg = f"text is not valid Unicode ({error.reason}); decode it with errors='replace'"
            raise RowError(msg) from error

    def _parse(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _split_template(self, *, with_prompt: bool) -> list[str]:
        """The template's own text: around the prompt if there is one, and around the data."""
        if not getattr(self.tokenizer, "chat_template", None):
            first = self.tokenizer("x")["input_ids"][0]
            bos = self.tokenizer.bos_token if first == self.tokenizer.bos_token_id else ""
            return [bos or "", "\n", "\n"] if with_prompt else [bos or "", "\n"]
        user = {"role": "user", "content": _DATA}
        system = {"role": "system", "content": _PROMPT}
        text = None
        if with_prompt:
            try:
                text = self._render([system, user])
            except Exception:  # templates raise what they like when they have no system role
                text = None
            if text is None or _PROMPT not in text:
                text = self._render([{"role": "user", "content": f"{_PROMPT}\n{_DATA}"}])
            before, text = text.split(_PROMPT, 1)
            return [before, *text.split(_DATA, 1)]
        return self._render([user]).split(_DATA, 1)

    def _reply_end(self, eos_ids: list[int]) -> list[int]:
        """The token a whole reply ends with: of those that may end one, the one that the template
        writes after a reply, else the tokenizer's own."""
        own = self.tokenizer.eos_token_id
        ends = [own] if own in eos_ids else eos_ids[:1]
        if len(eos_ids) < 2 or not getattr(self.tokenizer, "chat_template", None):
            return ends
        reply = {"role": "assistant", "content": _PROMPT}
        try:
            text = self._render([{"role": "user", "content": _DATA}, reply])
        except Exception:  # templates raise what they like
            return ends
        after = self._parse(text.partition(_PROMPT)[2])
        return next(([token] for token in after if token in self.eos_ids), ends)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._told
            )
        )


def _template_options(tokenizer: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    template = getattr(tokenizer, "chat_template", None)
    if told and not template:
        msg = f"template={dict(told)!r}: the tokenizer has no chat template; leave template out"
        raise ModelError(msg)
    for name in told:  # transformers would pass on any, and nothing would change
        if not re.search(rf"\b{re.escape(name)}\b", str(template)):
            msg = f"template={dict(told)!r}: the model's chat template does not know {name!r}"
            raise ModelError(msg)
    return dict(told)


class TextStream:
    """Ids arriving one by one -> text that never splits a character and ends at a stop string."""

    def __init__(self, tokens: Tokens, stop: tuple[str, ...] = ()) -> None:
        self._tokens = tokens
        self._stop = stop
        self._ids: list[int] = []  # the latest
        self._settled = ""  # what those before them read
        self.text = ""  # what may be shown
        self.stopped = False

    def add(self, token_id: int) -> None:
        """Take one more id."""
        self._ids.append(token_id)
        whole = self._whole()
        ends = [i for s in self._stop if (i := whole.find(s)) >= 0]
        if ends:
            self.text, self.stopped = whole[: min(ends)], True
            return
        shown = whole
        while shown.endswith(UNFINISHED):
            shown = shown[:-1]
        hold = max((_overlap(shown, s) for s in self._stop), default=0)
        shown = shown[: len(shown) - hold]
        if len(shown) > len(self.text):
            self.text = shown

    def flush(self) -> None:
        """Nothing more comes: show what was held back, and take nothing back that was shown.

        Where the text ends inside a character, some tokenizers spoil those before it as well.
        """
        whole = self._whole()
        if not self.stopped and whole.startswith(self.text):
            self.text = whole


    def _whole(self) -> str:
        """All of it so far. Of a long answer the latest ids are decoded anew, as many as matter."""
        whole = self._settled + self._tokens.text(self._ids)
        if len(self._ids) >= 2 * LATEST and not whole.endswith(UNFINISHED):
            for kept in range(LATEST, LATEST - 4, -1):  # one of these does not split a character
                later = self._tokens.text(self._ids[-kept:])
                if whole.endswith(later) and not later.startswith(UNFINISHED):
                    self._settled = whole[: len(whole) - len(later)]
                    self._ids = self._ids[-kept:]
                    break
        return whole


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    return next(
        (n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0
    )
