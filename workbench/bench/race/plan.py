"""Who races, in which processes, and what each is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import WorkbenchError

OURS = "workbench"
CHOICE = "choice"
CPU, CUDA = "cpu", "cuda"
SHORT = 16  # tokens of an answer that is asked as often as any


@dataclass(frozen=True)
class System:
    """One way of using one engine.

    Attributes:
        name: in tables and files.
        mode: what its script calls it.
        reads: when bars are computed: "arrival", "question", or "never kept".
        kinds: "all", "open" (no closed answers), "main" (one kind of answer, one number of bars,
            for those that compute the whole context every time) or "flash".
        what: one line on how the engine is used.
        standing, mix: the same for standing questions and for many sessions; empty where it is not
            in that part of the race.
    """

    name: str
    mode: str
    reads: str
    what: str
    kinds: str = "all"
    standing: str = ""
    mix: str = ""


@dataclass(frozen=True)
class Process:
    """One process: a script, run by the Python of its engine, and the systems that share it.

    Systems in one process share the model and the context that was read, never what an arrival or
    a question computed. ``devices`` are those that the engine computes on.
    """

    name: str
    engine: str
    script: str
    systems: tuple[System, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = (CPU, CUDA)

    @property
    def modes(self) -> list[str]:
        """Of its systems."""
        return [system.mode for system in self.systems]


JUDGE = Process(
    name="judge", engine="transformers", script="on_transformers.py",
    systems=(System("judge", "judge", "arrival", "plain transformers in float32"),),
    settings={"dtype": "float32"},
)  # fmt: skip

VLLM_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}  # fmt: skip

TENSORRT_LLM_ENV = {
    "TRTLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TLLM_LOG_LEVEL": "error",
}  # fmt: skip

THROWN = (
    "a throw-away request for a session's new bars while nothing is answered; questions are added "
    "when they are due"
)
WHEN_ASKED = "questions are added when they are due; bars wait for their session's next one"

PROCESSES = (
    Process(
        name="workbench", engine="workbench", script="on_workbench.py",
        systems=(
            System(OURS, "ask", "arrival", "a session; a question runs on a branch of it",
                   standing="a flash query for each, answered by itself after every bar",
                   mix="a session each; one thread pushes and asks, the engine's computes"),
            System("workbench, flash hit", "flash", "arrival",
                   "a standing question, answered again after every arrival", kinds="flash"),
        ),
    ),
    Process(
        name="vllm", engine="vllm", script="on_vllm.py",
        settings={"prefix_caching": True, "compiled": True, "block": 32, "step": 2048},
        env=VLLM_ENV,
        systems=(
            System("vLLM, streaming-input session", "session", "arrival",
                   "a resumable request; it cannot forget a question, so each has its own",
                   mix="a resumable request each takes bars while nothing is answered; questions "
                   "are requests beside it, which find its blocks in the prefix cache"),
            System("vLLM, prefix caching, kept warm", "warm", "arrival",
                   "a throw-away request of one token after every arrival",
                   standing="a throw-away request, then all questions added at once", mix=THROWN),
            System("vLLM, prefix caching", "prefix", "question",
                   "one request per question; what is new is computed then",
                   standing="all questions added at once, the bar in each", mix=WHEN_ASKED),
        ),
    ),
    Process(
        name="vllm-uncached", engine="vllm", script="on_vllm.py",
        settings={"prefix_caching": False, "compiled": True, "block": 32, "step": 2048},
        env=VLLM_ENV,
        systems=(
            System("vLLM, no prefix caching", "prefix", "never kept",
                   "everything is prefilled for every question", kinds="main"),
        ),
    ),
    Process(
        name="llamacpp", engine="llamacpp", script="on_llamacpp.py",
        systems=(
            System("llama.cpp, kept warm", "warm", "arrival",
                   "every bar is decoded; a question is cut off with seq_rm",
                   standing="the bar, then a batch of all questions, on sequences that share it",
                   mix="a sequence each, with cells of its own; questions first, cut off with "
                   "seq_rm; bars while nothing is answered"),
            System("llama.cpp, prefix reuse", "prefix", "question",
                   "what is new is decoded when asked, then cut off",
                   standing="the bar and all questions in a batch, on sequences that share it",
                   mix="the same; bars wait for their session's next question"),
        ),
    ),
    Process(
        name="openvino", engine="openvino", script="on_openvino.py", devices=(CPU,),
        systems=(
            System("OpenVINO GenAI, kept warm", "warm", "arrival",
                   "a throw-away request of one token after every arrival", kinds="open",
                   standing="a throw-away request, then all questions added at once", mix=THROWN),
            System("OpenVINO GenAI, prefix caching", "prefix", "question",
                   "one request per question; what is new is computed then", kinds="open",
                   standing="all questions added at once, the bar in each", mix=WHEN_ASKED),
        ),
    ),
    Process(
        name="sglang", engine="sglang", script="on_sglang.py", devices=(CUDA,),
        systems=(
            System("SGLang, radix cache, kept warm", "warm", "arrival",
                   "a throw-away request of one token after every arrival",
                   standing="a throw-away request, then all questions added at once", mix=THROWN),
            System("SGLang, radix cache", "prefix", "question",
                   "one request per question; what is new is computed then",
                   standing="all questions added at once, the bar in each", mix=WHEN_ASKED),
        ),
    ),
    Process(
        name="tensorrt-llm", engine="tensorrt-llm", script="on_tensorrt_llm.py", devices=(CUDA,),
        env=TENSORRT_LLM_ENV,
        systems=(
            System("TensorRT-LLM, block reuse, kept warm", "warm", "arrival",
                   "a throw-away request of one token after every arrival", kinds="open",
                   standing="a throw-away request, then all questions added at once", mix=THROWN),
            System("TensorRT-LLM, block reuse", "prefix", "question",
                   "one request per question; what is new is computed then", kinds="open",
                   standing="all questions added at once, the bar in each", mix=WHEN_ASKED),
        ),
    ),
    Process(
        name="transformers-warm", engine="transformers", script="on_transformers.py",
        systems=(
            System("transformers, kept warm", "warm", "arrival",
                   "DynamicCache; a question's tokens are cropped off afterwards",
                   standing="one question after the other, each cropped off",
                   mix="a DynamicCache each; one thing at a time, questions first"),
            System("transformers, static, kept warm", "static", "arrival",
                   "StaticCache with just the room that is needed",
                   standing="one question after the other, each cropped off"),
        ),
    ),
    Process(
        name="transformers-batching",
        engine="transformers",
        script="on_transformers_batching.py",
        systems=(
            System("transformers, continuous batching, kept warm", "warm", "arrival",
                   "a throw-away request of one token after every arrival", kinds="open",
                   standing="a throw-away request, then all questions added at once", mix=THROWN),
        ),
    ),
    Process(
        name="transformers-stateless", engine="transformers", script="on_transformers.py",
        systems=(
            System("transformers, stateless", "stateless", "never kept",
                   "everything is prefilled for every question", kinds="main"),
        ),
    ),
)  # fmt: skip

@dataclass(frozen=True)
class Cell:
    """One kind of measured question.

    Attributes:
        between: bars that arrive before it.
        answer: "1", "8", "64", ...: tokens of an open answer; or `CHOICE`.
        rounds: how often it is measured, if the budget lasts.
    """

    between: int
    answer: str
    rounds: int

    @property
    def kind(self) -> tuple[int, str]:
        """What is asked: bars before it, and the kind of answer."""
        return self.between, self.answer

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return 1 if self.answer == CHOICE else int(self.answer)


def cells(
    system: System, between: Sequence[int], answers: Sequence[str], repeats: int
) -> list[Cell]:
    """What a system is measured in at each context.

    All kinds of answers after the fewest bars; after more of them only the main kind, whose first
    token is what a one-token answer would have been. What takes long is measured less often.
    """
    few = max(1, repeats // 3, min(3, repeats // 2))
    first, *more = between
    main = main_answer(answers)
    if system.kinds == "main":
        return [Cell(first, main, repeats)]
    if system.kinds == "flash":
        return [Cell(first, CHOICE, repeats)] if CHOICE in answers else []
    short = [a for a in answers if a != CHOICE and int(a) <= SHORT and a != main]
    long = [a for a in answers if a != CHOICE and int(a) > SHORT and a != main]
    closed = [a for a in answers if a == CHOICE and system.kinds == "all"]
    # In the order in which they are measured: what a budget may not last for comes last.
    return [
        *(Cell(first, answer, repeats) for answer in (main, *short, *closed)),
        *(Cell(bars, main, few) for bars in more),
        *(Cell(first, answer, few) for answer in long),
    ]


def main_answer(answers: Sequence[str]) -> str:
    """The kind of open answer that everyone gives in every cell: 8 tokens, or what is closest."""
    numbers = [int(answer) for answer in answers if answer != CHOICE]
    return str(min(numbers, key=lambda n: abs(n - 8)))


def chosen(only: Sequence[str], device: str = CPU) -> tuple[Process, ...]:
    """The processes to run; ``only`` names processes or engines, none takes all of the device's.

    Raises:
        WorkbenchError: there is no such peer, or it computes on other devices.
    """
    here = [p for p in PROCESSES if device in p.devices]
    known = sorted({p.name for p in here} | {p.engine for p in here})
    for name in only:
        named = [p for p in PROCESSES if name in (p.name, p.engine)]
        if not named:
            msg = f"peer {name!r}: expected some of {', '.join(known)}"
            raise WorkbenchError(msg)
        if named[0] not in here:
            where = " or ".join(named[0].devices)
            msg = (
                f"peer {name!r} computes on {where} alone, and this race is on {device}; expected "
                f"--device {named[0].devices[0]}, or some of {', '.join(known)}"
            )
            raise WorkbenchError(msg)
    return tuple(p for p in here if not only or {p.name, p.engine} & set(only))
