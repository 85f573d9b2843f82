"""llama.cpp in the race, through llama-cpp-python: its own calls, a cache that is cut back."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from gguf_file import write_gguf
from timetable import Event, Timetable
from wire import Peer, Question, Reply, Round, serve

STEP = 2048  # tokens of one call
INNER = 512  # of one pass within it
PAD = 256  # cells of a sequence come in such steps
MOST_SEQUENCES = 256  # of one context, as llama.cpp is built


class Token(NamedTuple):
    """One token of a call: its position, the sequences it belongs to, whether logits are wanted."""

    id: int
    position: int
    sequences: tuple[int, ...]
    wanted: bool = False


class Branch:
    """A question under way, on a sequence that shares the cells of its context."""

    def __init__(self, sequence: int, position: int, question: Question) -> None:
        self.sequence = sequence
        self.position = position  # of the next token
        self.question = question
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.chances: list[float] | None = None

    def prefill(self) -> list[Token]:
        """The question's tokens; logits of the last."""
        return self._tokens(self.question.ids)

    def decode(self) -> list[Token]:
        """The answer's newest token."""
        return self._tokens(self.ids[-1:])

    def take(self, logits: Any) -> bool:
        """The next token of the answer; true if it is the last one."""
        question = self.question
        if question.choices is not None:
            odds = np.exp(logits[question.choices] - logits[question.choices].max())
            self.chances = (odds / odds.sum()).tolist()
            self.ids.append(question.choices[int(odds.argmax())])
        else:
            self.ids.append(int(logits.argmax()))
        if question.scored:
            exact = logits.astype(np.float64) - logits.max()
            self.logprobs.append(float(exact[self.ids[-1]] - np.log(np.exp(exact).sum())))
        return len(self.ids) == question.tokens

    def reply(self, first_at: float | None = None) -> Reply:
        """What it came to."""
        logprobs = self.logprobs if self.question.scored else None
        return Reply(self.ids, first_at, logprobs, self.chances)

    def _tokens(self, ids: Sequence[int]) -> list[Token]:
        found = run_of(ids, self.position, (self.sequence,), wanted=True)
        self.position += len(ids)
        return found


class LlamaCpp(Peer):
    """Modes: ``warm`` (each bar is decoded when it arrives) and ``prefix`` (when asked)."""

    packages = ("llama-cpp-python", "gguf", "numpy")

    def __init__(self, settings: dict[str, Any]) -> None:
        path = Path(settings["folder"]) / "model.gguf"
        if not path.exists():
            write_gguf(Path(settings["model"]), path)
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = -1 if settings["device"] == "cuda" else 0  # all, none
        if settings["device"] == "cuda" and not llama_cpp.llama_supports_gpu_offload():
            msg = "this llama-cpp-python is built without CUDA; install one that is built with it"
            raise ValueError(msg)
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            msg = "llama.cpp did not load the GGUF file"
            raise ValueError(msg)
        self._threads = settings["threads"]
        self._longest = settings["longest"]
        self._ctx: Any = None
        self._batch: Any = None
        self._length = 0  # of the context
        self._at = 0  # next position
        sequences = min(settings["sequences"] + 1, MOST_SEQUENCES)
        self._open(settings["cells"], sequences, shared=True)
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._words = llama_cpp.llama_vocab_n_tokens(vocab)
        self._waiting: list[int] = []

    def about(self) -> dict[str, Any]:
        """Types and settings, and what it was built for."""
        system = llama_cpp.llama_print_system_info().decode()
        return {
            "weights": "bfloat16",
            "cache": "float16",
            "settings": "flash attention on, steps of 512 tokens",
            "built": system.replace(" | ", ", ").strip(", "),
        }

    def fill(self, ids: list[int]) -> None:
        """Decode what is new."""
        self._read(ids[self._length :])
        self._length = self._at

    def begin(self, mode: str, length: int, room: int) -> None:
        """The cache holds the context already."""
        self._waiting = []

    def arrive(self, mode: str, ids: list[int]) -> None:
        """Decode it now or remember it."""
        if mode == "warm":
            self._read(ids)
        else:
            self._waiting += ids

    def ask(self, mode: str, question: Question) -> Reply:
        """Decode what is new and the question, then token by token."""
        new, self._waiting = self._run(self._waiting), []
        branch = Branch(0, self._at, question)
        (logits,) = self._decode([*new, *branch.prefill()])
        ended = branch.take(logits)
        first_at = time.perf_counter()
        while not ended:
            (logits,) = self._decode(branch.decode())
            ended = branch.take(logits)
        return branch.reply(first_at)

    def end(self, mode: str) -> None:
        """Cut the cache back."""
        self._remove(0, self._length)
        self._at = self._length

    def refresh(self, mode: str, ids: list[int]) -> Round:
        """All questions in one call, each on a sequence of its own that shares the context."""
        kept = range(1, len(self.watched) + 1)
        new, read_at = self._run(ids, (0,) if mode == "warm" else (0, *kept)), None
        if mode == "warm":
            self._decode(new)
            new, read_at = [], time.perf_counter()
        for sequence in kept:
            self._share(0, sequence)
        branches = [Branch(k, self._at, q) for k, q in zip(kept, self.watched, strict=True)]
        tokens = [*new, *(token for branch in branches for token in branch.prefill())]
        running = branches
        while running:
            taken = zip(running, self._decode(tokens), strict=True)
            running = [branch for branch, logits in taken if not branch.take(logits)]
            tokens = [token for branch in running for token in branch.decode()]
        last_at = time.perf_counter()
        for sequence in kept:
            self._remove(sequence, -1)
        return Round([branch.reply() for branch in branches], last_at, read_at)

    # Many sessions.

    def mix(self, mode: str, table: Timetable) -> None:
        """A sequence with cells of its own per session, questions first.

        A question joins the answers that decode. It goes to its session's sequence, after the bars
        that nobody read yet, and is cut off when answered; until then the session waits. Bars are
        read while nothing is answered, those of one session a call: llama.cpp would not compute
        them in one pass with another's.
        """
        sessions = len(table.contexts)
        self._open(sessions * self._longest, sessions, shared=False)
        for sequence, ids in enumerate(table.contexts):
            self._decode(run_of(ids, 0, (sequence,)))
        lengths = [len(ids) for ids in table.contexts]
        bars: list[list[Event]] = [[] for _ in lengths]
        asked: list[Event] = []
        running: list[tuple[Event, Branch]] = []
        table.begin()
        while not table.over:
            for event in table.take():
                (bars[event.session] if event.is_bar else asked).append(event)
                if event.is_bar and mode == "prefix":
                    table.keep(event)
            tokens = [token for _, branch in running for token in branch.decode()]
            busy = {branch.sequence for _, branch in running}
            question = next((event for event in asked if event.session not in busy), None)
            reading: list[Event] = []
            if question is not None:
                reading = bars[question.session]
            elif mode == "warm" and not running:
                reading = min(filter(None, bars), key=lambda new: new[0].at, default=[])
            for bar in reading:
                tokens += run_of(bar.ids, lengths[bar.session], (bar.session,))
                lengths[bar.session] += len(bar.ids)
                bars[bar.session] = []
            if question is not None:
                asked.remove(question)
                wanted = Question(question.ids, table.tokens, None, table.scored)
                branch = Branch(question.session, lengths[question.session], wanted)
                table.sees(question, branch.position)
                tokens += branch.prefill()
                running.append((question, branch))
            if not tokens:
                table.wait()
                continue
            taken = zip(list(running), self._decode(tokens), strict=True)
            for pair, logits in taken:
                event, branch = pair
                branch.take(logits)
                if table.answered(event, branch.ids[-1:], branch.logprobs[-1:]):
                    running.remove(pair)
                    self._remove(branch.sequence, lengths[branch.sequence])
            if mode == "warm":
                for bar in reading:
                    table.visible(bar)

    # Calls.

    def _open(self, cells: int, sequences: int, *, shared: bool) -> None:
        """A context with so many cells, of all sequences together or each with as many of its own.

        Sequences that have much in common share cells; those that have nothing in common would only
        attend to one another's, masked.
        """
        if self._ctx is not None:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._ctx)
        params = llama_cpp.llama_context_default_params()
        pad = PAD if shared else sequences * PAD
        params.n_ctx = -(-cells // pad) * pad
        params.n_batch, params.n_ubatch, params.n_seq_max = STEP, INNER, sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = 1
        params.kv_unified = shared
        params.no_perf = True
        self._ctx = llama_cpp.llama_init_from_model(self._model, params)
        if not self._ctx:
            msg = "llama.cpp did not make a context"
            raise ValueError(msg)
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._batch = llama_cpp.llama_batch_init(STEP, 0, sequences)
        self._length = self._at = 0  # nothing was read

    def _run(self, ids: Sequence[int], sequences: tuple[int, ...] = (0,)) -> list[Token]:
        """Tokens that follow the context's, which they become part of."""
        found = run_of(ids, self._at, sequences)
        self._at += len(ids)
        return found

    def _read(self, ids: Sequence[int]) -> None:
        self._decode(self._run(ids))

    def _share(self, source: int, sequence: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._memory, source, sequence, -1, -1)

    def _remove(self, sequence: int, start: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def _decode(self, tokens: Sequence[Token]) -> list[Any]:
        """Logits where they are wanted, in order; valid until the next call."""
        batch = self._batch
        found: list[Any] = []
        for start in range(0, len(tokens), STEP):
            chunk = tokens[start : start + STEP]
            batch.n_tokens = len(chunk)
            for i, token in enumerate(chunk):
                batch.token[i] = token.id
                batch.pos[i] = token.position
                batch.n_seq_id[i] = len(token.sequences)
                for j, sequence in enumerate(token.sequences):
                    batch.seq_id[i][j] = sequence
                batch.logits[i] = token.wanted
            if code := llama_cpp.llama_decode(self._ctx, batch):
                msg = f"llama_decode returned {code}"
                raise ValueError(msg)
            for i, token in enumerate(chunk):
                if token.wanted:
                    pointer = llama_cpp.llama_get_logits_ith(self._ctx, i)
                    logits = np.ctypeslib.as_array(pointer, shape=(self._words,))
                    found.append(logits.copy() if len(tokens) > STEP else logits)
        return found


def run_of(
    ids: Sequence[int], start: int, sequences: tuple[int, ...], *, wanted: bool = False
) -> list[Token]:
    """Tokens at positions from ``start`` on; ``wanted``: logits of the last."""
    last = len(ids) - 1
    return [Token(id, start + i, sequences, wanted and i == last) for i, id in enumerate(ids)]


if __name__ == "__main__":
    serve(LlamaCpp)
