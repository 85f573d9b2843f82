"""Scores of a folder of weights on streams that training never drew.

A free answer counts when every token of it, its end included, is the model's first choice after the
true ones before it: greedy decoding gives just that answer. A closed question counts when the true
choice is the likeliest, as ``choices=`` decides. ``baseline`` is the share of the commonest answer
(of the commonest of the choices in their order, where they have one; one in as many where they are
names). Weights are read as they are stored (bfloat16) and computed with in float32.

Where scores come from: ``held out`` streams of training's kinds, by context length; ``unseen``
regimes (`generators.UNSEEN`) at `UNSEEN_LENGTH` tokens, and training's kinds under names that no
list holds (`NAMES`); ``real`` rows, the weekly stock prices that plotly carries. Questions are
about the last quarter of a held-out context.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from workbench.errors import WorkbenchError
from workbench.streams.render import Row, price_text
from workbench.tape.attention import GROUP
from workbench.tape.batch import Branch, branches_for, context_ids, lay_out
from workbench.tape.calibration import Closed, calibrate
from workbench.tape.card import card_text, tables
from workbench.tape.export import digest
from workbench.tape.generators import UNSEEN, Stream, make_stream, read_stream
from workbench.tape.moments import Asked
from workbench.tape.names import retold
from workbench.tape.questions import SHARES, ask

SEED = 77_000_001  # training seeds its streams with other numbers
# Length of context in tokens: streams of each kind, questions about each.
PLAN = {512: (14, 40), 1024: (12, 40), 2048: (10, 44), 4096: (5, 72), 8192: (4, 88)}
UNSEEN_LENGTH = 1024
UNSEEN_PLAN = (3, 24)  # streams of each kind and regime, questions about each
NAMES = "names"  # in the place of a regime
REGIMES = {regime: UNSEEN_PLAN for regime in UNSEEN} | {NAMES: (9, 32)}


@dataclass(frozen=True)
class Score:
    """How one kind of question went; ``context`` in tokens, 0 where lengths are mixed.

    ``free`` is the share that greedy decoding answers exactly, also of closed questions.
    """

    where: str
    schema: str
    what: str
    context: int
    questions: int
    accuracy: float
    free: float
    baseline: float


@dataclass(frozen=True)
class Result:
    """One question answered: right as asked, right as free text, and its choices' log chances."""

    asked: Asked
    right: bool
    free: bool
    chances: tuple[float, ...]


def load(folder: Path) -> tuple[Any, Any]:
    """Model (float32, reading branches under a tree mask) and tokenizer of ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="branching"
    )
    return model.eval(), tokenizer


@torch.inference_mode()
def answered(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    seen: list[int],
    branches: list[Branch],
) -> list[Result]:
    """The questions about the context ``seen``, answered, in the given order."""
    core = tokenizer.backend_tokenizer
    asked: list[tuple[int, str]] = [(n, b.asked.answer) for n, b in enumerate(branches)]
    asked += [
        (n, choice)
        for n, branch in enumerate(branches)
        for choice in branch.asked.choices
        if choice != branch.asked.answer
    ]
    tried = []
    for n, text in asked:
        ids = [*core.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id]
        tried.append(Branch(branches[n].end, branches[n].question, ids, branches[n].asked))
    found: dict[tuple[int, str], tuple[float, bool]] = {}
    order = sorted(range(len(tried)), key=lambda i: tried[i].end)
    for begin in range(0, len(order), 256):
        part = order[begin : begin + 256]
        for i, result in zip(part, _read(model, tokenizer, seen, [tried[i] for i in part]),
                             strict=True):  # fmt: skip
            found[asked[i]] = result
    made = []
    for n, branch in enumerate(branches):
        truth, free = found[n, branch.asked.answer][0], found[n, branch.asked.answer][1]
        chances = tuple(found[n, choice][0] for choice in branch.asked.choices)
        made.append(Result(branch.asked, truth >= max(chances) if chances else free, free, chances))
    return made


def _read(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    seen: list[int],
    branches: list[Branch],
) -> list[tuple[float, bool]]:
    """Of each branch, by ascending ``end``: its answer's log chance without its end, and whether
    it is what greedy decoding gives."""
    seen = seen[: branches[-1].end]
    room = (sum(branch.size for branch in branches) * 5 // 4 // GROUP + 1) * GROUP
    batch = lay_out(tokenizer, [(seen, branches)], len(seen), room)
    hidden = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        ends=batch.ends,
        use_cache=False,
    ).last_hidden_state[0]
    starts = (batch.answer_weight[0] > 0).nonzero()[:, 0]
    logits = torch.log_softmax(model.lm_head(hidden[starts]).float(), -1)
    made, at = [], 0
    for branch in branches:
        own = logits[at : at + len(branch.answer)]
        at += len(branch.answer)
        chance = sum(float(own[i, token]) for i, token in enumerate(branch.answer[:-1]))
        made.append((chance, own.argmax(-1).tolist() == branch.answer))
    if at != len(logits):
        raise RuntimeError(f"laid out {len(logits)} answer tokens, asked for {at}")
    return made


def label(asked: Asked) -> str:
    """What a question asks, in the words of the card."""
    if asked.family == "last" and asked.column == "move":
        return "last move"
    if asked.family == "trend":
        return "volume up or down" if asked.column == "v" else "up or down over k rows"
    if asked.family == "who":
        return {"move": "who moved most", "v": "who is fastest"}.get(asked.column, "who came last")
    return {
        "last": "last value", "absent": "not in the data", "bar": "last bar up or down",
        "change": "size of the move over k bars", "extreme": "largest or smallest of k",
        "level": "above or below a number", "limits": "inside its limits",
        "count": "how many of k", "happened": "has it happened", "ago": "value k rows ago",
        "larger": "larger or smaller of two", "compare": "two numbers of the question",
    }[asked.family]  # fmt: skip


def held_out(
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    streams: int,
    questions: int,
    *,
    kinds: Iterable[tuple[str, bool]] = tuple(SHARES),
    regime: str = "train",
    seed: int = SEED,
) -> Iterator[tuple[str, Stream, list[int], list[Branch]]]:
    """``streams`` streams of each kind in contexts of ``length`` tokens, and questions about them.

    ``regime`` is ``train``, one of `UNSEEN`, or `NAMES`. Yields the kind's name, the stream, its
    tokens and the branches.
    """
    for number, (schema, several) in enumerate(kinds):
        families = [f for f in SHARES[schema, several] for _ in range(2 if f == "last" else 1)]
        for index in range(streams):
            rng = np.random.default_rng(
                [seed, length, number, index, ("train", *REGIMES).index(regime)]
            )
            flag = bool(index % 2) if (schema, True) not in SHARES else several
            usual = "train" if regime == NAMES else regime
            stream = make_stream(rng, length // 3, schema, several=flag, regime=usual)
            if regime == NAMES:
                stream = retold(rng, stream)
            seen, ends = context_ids(tokenizer, stream, length)
            late = [rows for rows, end in enumerate(ends, start=1) if end >= 0.75 * ends[-1]]
            asked = [
                ask(rng, stream, int(rng.choice(late)), families[n % len(families)])
                for n in range(questions)
            ]
            name = f"{schema}, several" if (schema, True) in SHARES and several else schema
            yield name, stream, seen, branches_for(tokenizer, [a for a in asked if a], ends)


def real_rows(
    tokenizer: PreTrainedTokenizerFast, questions: int = 40
) -> Iterator[tuple[str, Stream, list[int], list[Branch]]]:
    """The weekly prices that plotly carries, as plain rows and as bars of two weeks."""
    import plotly.data

    stocks = plotly.data.stocks(return_type="polars")
    names = [name for name in stocks.columns if name != "date"]
    rng = np.random.default_rng([SEED, 1])

    def asked(name: str, stream: Stream) -> tuple[str, Stream, list[int], list[Branch]]:
        seen, ends = context_ids(tokenizer, stream, 16_384)
        drawn = [ask(rng, stream, int(rng.integers(4, len(ends) + 1))) for _ in range(questions)]
        return name, stream, seen, branches_for(tokenizer, [a for a in drawn if a], ends)

    for columns in ([*stocks.columns], names, *([name] for name in names)):
        rows = [
            {c: str(v) if c == "date" else float(price_text(v)) for c, v in row.items()}
            for row in stocks.select(columns).to_dicts()
        ]
        shape = "one column" if len(columns) == 1 else f"{len(columns)} columns"
        yield asked(f"rows, {shape}", read_stream("rows", rows))
    for name in names:
        prices = [float(price_text(value)) for value in stocks[name].to_list()]
        bars: list[Row] = []
        for at in range(0, len(prices) - 1, 2):
            part = prices[at : at + 3]
            bars.append({"o": part[0], "h": max(part), "l": min(part), "c": part[-1]})
        named = [{"symbol": name} | bar for bar in bars]
        yield asked("ohlcv, two weeks a bar", read_stream("ohlcv", named))


Cells = dict[tuple[str, str, str, int], list[Result]]


def results(folder: Path, share: float = 1.0, *, progress: bool = True) -> Cells:
    """Every question, answered, by where, schema, what and context length."""
    from tqdm import tqdm

    model, tokenizer = load(folder)
    cells: Cells = {}

    def fewer(number: int) -> int:
        return max(1, round(number * share))

    def all_of() -> Iterator[tuple[str, int, tuple[str, Stream, list[int], list[Branch]]]]:
        for length, (streams, questions) in PLAN.items():
            for each in held_out(tokenizer, length, fewer(streams), questions):
                yield "held out", length, each
        for regime, (streams, questions) in REGIMES.items():
            for each in held_out(
                tokenizer, UNSEEN_LENGTH, fewer(streams), questions, regime=regime
            ):
                yield NAMES if regime == NAMES else f"unseen {regime}", UNSEEN_LENGTH, each
        for each in real_rows(tokenizer):
            yield "real", 0, each

    streams = sum(fewer(n) for n, _ in [*PLAN.values(), *REGIMES.values()])
    for where, length, (name, _, seen, branches) in tqdm(
        all_of(), total=streams * len(SHARES) + 14, unit=" streams", disable=not progress
    ):
        for result in answered(model, tokenizer, seen, branches):
            key = where, name, label(result.asked), length
            cells.setdefault(key, []).append(result)
    return cells


def scores(cells: Cells) -> list[Score]:
    """The share that is right of each kind of question, beside its baseline."""
    return [
        Score(
            where, schema, what, length, len(found),
            round(float(np.mean([r.right for r in found])), 4),
            round(float(np.mean([r.free for r in found])), 4),
            round(baseline([r.asked for r in found]), 4),
        )
        for (where, schema, what, length), found in cells.items()
    ]  # fmt: skip


def baseline(asked: list[Asked]) -> float:
    """How often always giving the commonest answer is right, or any of those the question names."""
    if all(a.family == "who" for a in asked):
        return float(np.mean([1 / len(a.choices) for a in asked]))
    if all(a.family in ("larger", "compare") for a in asked):
        return 0.5
    answers = [str(a.choices.index(a.answer)) if a.choices else a.answer for a in asked]
    return Counter(answers).most_common(1)[0][1] / len(asked)


def by_back(cells: Cells) -> list[Score]:
    """How far back: up or down over k bars of one symbol, to 2048 tokens, by k."""
    found: dict[int, list[Result]] = {}
    for (where, schema, what, length), made in cells.items():
        wanted = where == "held out" and schema == "ohlcv" and what == "up or down over k rows"
        if wanted and length <= 2048:
            for result in made:
                found.setdefault(result.asked.k, []).append(result)
    keyed = {("by k", "ohlcv", f"up or down over {k} rows", 0): r for k, r in sorted(found.items())}
    return scores(keyed)


def evaluate(folder: Path, *, share: float = 1.0, write: bool = True) -> list[Score]:
    """Score ``folder``, print the tables and, unless ``write`` is False, renew its card.

    Writes ``card.json`` (every figure), ``CARD.md`` (for people) and ``calibration.json`` (the
    temperature that choices' log chances are divided by, see `calibration`).
    """
    path = folder / "card.json"
    if not path.exists():
        raise WorkbenchError(f"{path} is not there; write the folder with `tape export`")
    card = json.loads(path.read_text())
    if write and card["trained"]["sha256"] != digest(folder):
        raise WorkbenchError(
            f"expected weights of digest {card['trained']['sha256']}, got {digest(folder)}; "
            "export them again with `python -m workbench.tape export`"
        )
    cells = results(folder, share)
    made = scores(cells) + by_back(cells)
    closed = [
        Closed(result.chances, result.asked.choices.index(result.asked.answer))
        for (where, _, _, length), found in cells.items()
        for result in found
        if where == "held out" and length <= 2048 and result.asked.choices
    ]
    card["scores"] = [asdict(score) for score in made]
    card["calibration"] = calibrate(closed)
    sys.stdout.write(tables(card["scores"]))
    sys.stdout.write(json.dumps(card["calibration"]) + "\n")
    if write:
        path.write_text(json.dumps(card, indent=1) + "\n")
        (folder / "CARD.md").write_text(card_text(card))
        kept = {"temperature": card["calibration"]["temperature"]}
        (folder / "calibration.json").write_text(json.dumps(kept) + "\n")
    return made
