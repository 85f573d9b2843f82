"""Scores of a folder of weights on streams that training never drew, and the card that states them.

An answer counts when every token of it, its end included, is the model's first choice after the
true ones before it, which is the same as greedy decoding giving just that answer. For the
up-or-down and above-or-below families it counts when the true choice is likelier than the other,
as ``choices=`` decides. ``baseline`` is the share of the commonest true answer. Weights are read
as they are stored (bfloat16) and computed with in float32.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from workbench.streams.render import Row, schema_for
from workbench.tape.batch import GROUP, Branch, branch_ids, context_ids, lay_out, rows_for
from workbench.tape.questions import COLUMNS, DEFAULT_K, Asked, Sample, ask, stream
from workbench.tape.train import digest

SEED = 77_000_001  # training seeds its streams with other numbers
OPPOSITE = {"up": "down", "down": "up", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Score:
    """How one kind of question went at one context length (tokens; 0 stands for all of them).

    ``rows`` says which rows: ``held out``, ``by move`` (the trends of held-out contexts up to 2048
    tokens, by the size of the move) or ``real``.
    """

    rows: str
    what: str
    context: int
    questions: int
    accuracy: float
    baseline: float


def load(folder: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """Model (float32, reading branches under a tree mask) and tokenizer of ``folder``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="branching"
    )
    return model.eval(), tokenizer


@torch.inference_mode()
def answered(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    seen: list[int],
    branches: list[Branch],
) -> list[bool]:
    """Whether each question about the context ``seen`` is answered right, in the given order."""
    room = (sum(branch.size for branch in branches) * 2 // GROUP + 1) * GROUP
    batch = lay_out(tokenizer, [(seen, branches)], len(seen), room)
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        ends=batch.ends,
        use_cache=False,
    ).logits[0]
    starts = (batch.answer_weight[0] > 0).nonzero()[:, 0].tolist()
    right = {}
    at = 0
    for index in sorted(range(len(branches)), key=lambda i: branches[i].end):
        answer, asked = branches[index].answer, branches[index].asked
        where = starts[at : at + len(answer)]
        at += len(answer)
        if asked.answer in OPPOSITE:
            other = tokenizer.convert_tokens_to_ids(OPPOSITE[asked.answer])
            right[index] = bool(logits[where[0], answer[0]] > logits[where[0], other])
        else:
            right[index] = logits[where].argmax(-1).tolist() == answer
    return [right[index] for index in range(len(branches))]


def label(asked: Asked, sample: Sample) -> str:
    """The line of the card that a question counts for."""
    if asked.family == "trend":
        k = next((w for w in asked.text.split() if w.isdigit()), None)
        if k is None:
            return "up or down, no number (means 10 bars)"
        often = k in {"3", "5", "10", "20"}
        return f"up or down over the last {k if often else 'k (any other)'} bars"
    if asked.family != "last":
        return {
            "bar": "last bar up or down",
            "level": "last close above or below a price",
            "trend_rows": "up or down of a column over k rows",
        }[asked.family]
    if sample.schema == "rows":
        return "last value of a named column"
    if len({row.get("symbol") for row in sample.rows[:4]}) > 1:
        return "last value of one of several symbols"
    words = {w.strip("?.").lower() for w in asked.text.split()}
    word = next((w for w in (*COLUMNS.values(), "price") if w in words), "close")
    return f"last {'close' if word == 'price' else word}"


def move_size(asked: Asked, sample: Sample) -> str:
    """How clear a trend's move is, against what k bars of the stream usually move."""
    k = next((int(w) for w in asked.text.split() if w.isdigit()), DEFAULT_K)
    closes = np.log([row["c"] for row in sample.rows[: asked.rows]])
    usual = np.std(np.diff(closes[-60:])) * np.sqrt(k)
    size = abs(closes[-1] - closes[-1 - k]) / usual
    return "clear (over 0.75)" if size > 0.75 else "slight (to 0.25)" if size <= 0.25 else "between"


def held_out(
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    questions: int,
    *,
    seed: int = SEED,
    streams: int | None = None,
) -> Iterator[tuple[Sample, list[int], list[Branch]]]:
    """Streams of ``length`` tokens, some ``questions`` of each kind about their last quarter.

    Answers within one stream go together (a rising market rises), so there are many: 16 streams
    of each kind, fewer beyond 2048 tokens, where each costs more.
    """
    streams = streams or (16 if length <= 2048 else 8 if length <= 4096 else 6)
    wanted = {
        "bars": [("last", None)] * 5
        + [("bar", None), ("level", None), ("trend", None)]
        + [("trend", k) for k in (3, 5, 10, 20)],
        "symbols": [("last", None)],
        "rows": [("last", None), ("trend_rows", None)],
    }
    for number, (kind, families) in enumerate(wanted.items()):
        for index in range(streams):
            rng = np.random.default_rng([seed, length, number, index])
            sample = stream(rng, rows_for(length, kind), kind)
            seen, ends = context_ids(tokenizer, sample, length)
            late = [rows for rows, end in enumerate(ends, start=1) if end >= 0.75 * length]
            branches = []
            for family, k in families * -(-questions // streams):
                rows = int(rng.choice(late))
                asked = ask(rng, sample, rows, family, k=k)
                if asked and (family, k) == ("trend", None) and any(map(str.isdigit, asked.text)):
                    asked = None  # this place is for questions without a number
                if asked:
                    branches.append(Branch(ends[rows - 1], *branch_ids(tokenizer, asked), asked))
            yield sample, seen, branches


def real_rows(
    tokenizer: PreTrainedTokenizerFast,
) -> Iterator[tuple[str, Sample, list[int], list[Branch]]]:
    """The weekly prices that plotly carries, as plain rows and as bars of four weeks."""
    import plotly.data

    stocks = plotly.data.stocks(return_type="polars")
    names = [name for name in stocks.columns if name != "date"]
    rng = np.random.default_rng([SEED, 1])
    for columns in ([*stocks.columns], names, *([name] for name in names)):
        rows = [
            {c: str(v) if c == "date" else v for c, v in row.items()}
            for row in stocks.select(columns).to_dicts()
        ]
        sample = _sample("rows", rows)
        seen, ends = context_ids(tokenizer, sample, 16_384)
        branches = []
        for family in ("last", "trend_rows") * 40:
            at = int(rng.integers(4, len(rows) + 1))
            asked = ask(rng, sample, at, family)
            if asked:
                branches.append(Branch(ends[at - 1], *branch_ids(tokenizer, asked), asked))
        shape = "one column" if len(columns) == 1 else f"{len(columns)} columns"
        yield f"plotly stocks, {shape}", sample, seen, branches
    for name in names:
        prices = stocks[name].to_list()
        bars: list[Row] = []
        for at in range(0, len(prices) - 1, 2):
            part = prices[at : at + 3]
            bars.append({"o": part[0], "h": max(part), "l": min(part), "c": part[-1]})
        sample = _sample("ohlcv", [{"symbol": name} | bar for bar in bars])
        seen, ends = context_ids(tokenizer, sample, 16_384)
        branches = []
        for family in ("last", "trend", "bar", "level") * 20:
            at = int(rng.integers(4, len(bars) + 1))
            asked = ask(rng, sample, at, family)
            if asked:
                branches.append(Branch(ends[at - 1], *branch_ids(tokenizer, asked), asked))
        yield "plotly stocks, two-week bars", sample, seen, branches


def scores(folder: Path, lengths: list[int], questions: int) -> list[Score]:
    """Every kind of question at every context length, then on real rows (length 0)."""
    model, tokenizer = load(folder)
    cells: dict[tuple[str, str, int], list[tuple[bool, str]]] = defaultdict(list)
    for length in lengths:
        for sample, seen, branches in held_out(tokenizer, length, questions):
            for right, branch in zip(
                answered(model, tokenizer, seen, branches), branches, strict=True
            ):
                result = (right, branch.asked.answer)
                cells["held out", label(branch.asked, sample), length].append(result)
                if branch.asked.family == "trend" and length <= 2048:
                    cells["by move", move_size(branch.asked, sample), 0].append(result)
    for where, _, seen, branches in real_rows(tokenizer):
        for right, branch in zip(answered(model, tokenizer, seen, branches), branches, strict=True):
            family = {"last": "last value", "level": "above or below", "bar": "last bar"}.get(
                branch.asked.family, "up or down over k"
            )
            cells["real", f"{where}: {family}", 0].append((right, branch.asked.answer))
    return [
        Score(
            rows,
            what,
            length,
            len(results),
            round(float(np.mean([right for right, _ in results])), 3),
            round(Counter(answer for _, answer in results).most_common(1)[0][1] / len(results), 3),
        )
        for (rows, what, length), results in sorted(cells.items())
    ]


def evaluate(
    folder: Path, lengths: list[int], questions: int, *, write: bool = True
) -> list[Score]:
    """Score ``folder``, print the table and, unless ``write`` is False, renew its card."""
    made = scores(folder, lengths, questions)
    table = tables(made)
    sys.stdout.write(table)
    if write:
        path = folder / "card.json"
        card = json.loads(path.read_text())
        if card["trained"]["sha256"] != digest(folder):
            raise ValueError(
                f"expected weights of digest {card['trained']['sha256']}, got {digest(folder)}; "
                "export them again with `python -m workbench.tape train`"
            )
        card["scores"] = [asdict(score) for score in made]
        path.write_text(json.dumps(card, indent=1) + "\n")
        (folder / "CARD.md").write_text(card_text(card, made))
    return made


def tables(made: list[Score]) -> str:
    """The scores as Markdown: held-out streams by length, trends by size of move, real rows."""
    held = [score for score in made if score.rows == "held out"]
    lengths = sorted({score.context for score in held})
    cells = {(score.what, score.context): score for score in held}
    lines = [
        "| question, context in tokens | " + " | ".join(map(str, lengths)) + " | baseline |",
        "| --- |" + " ---: |" * (len(lengths) + 1),
    ]
    for what in sorted({score.what for score in held}, key=_order):
        row = [cells.get((what, length)) for length in lengths]
        known = [score for score in row if score]
        base = sum(s.baseline * s.questions for s in known) / sum(s.questions for s in known)
        shown = " | ".join(f"{score.accuracy:.0%}" if score else "" for score in row)
        lines.append(f"| {what} | {shown} | {base:.0%} |")
    titles = {"by move": "up or down over k bars, by size of the move", "real": "real rows"}
    for rows, title in titles.items():
        lines += ["", f"| {title} | questions | right | baseline |", "| --- | ---: | ---: | ---: |"]
        lines += [
            f"| {s.what} | {s.questions} | {s.accuracy:.0%} | {s.baseline:.0%} |"
            for s in made
            if s.rows == rows
        ]
    return "\n".join(lines) + "\n"


def card_text(card: dict, made: list[Score]) -> str:
    """The card for people: what the model can and cannot do, with the figures."""
    trained = card["trained"]
    held = [score for score in made if score.rows == "held out" and score.questions >= 30]
    worst: dict[str, float] = {}
    for score in held:
        if score.context <= 2048:
            worst[score.what] = min(worst.get(score.what, 1.0), score.accuracy)
    groups = {
        "It does these, right at least nine times in ten": (0.9, 1.01),
        "It does these right far more often than not, at least two times in three": (0.67, 0.9),
        "It cannot do these; they are listed because it was trained on them": (0.0, 0.67),
    }
    lists = []
    for title, (low, high) in groups.items():
        of = sorted((what for what, value in worst.items() if low <= value < high), key=_order)
        if of:
            lists.append(f"{title}:\n")
            lists.append("\n".join(f"- {what}: {worst[what]:.0%}" for what in of) + "\n")
    does = [what for what, value in worst.items() if value >= 0.67]
    lengths = sorted({score.context for score in held})
    means = [
        np.mean([s.accuracy for s in held if s.context == length and s.what in does])
        for length in lengths
    ]
    by_length = "\n".join(
        f"- {length} tokens: {mean:.0%}" for length, mean in zip(lengths, means, strict=True)
    )
    longest = max(stage["context"] for stage in trained["recipe"]["stages"])
    return f"""# tape: the embedded model

A Llama of 3.1 M parameters that this project trained from nothing to read market rows and answer a
few kinds of question about them. It knows no language beyond that, and nothing about markets: it
reads what is in its context. Rows look so (`workbench/streams/render.py`; schema `ohlcv`, then
`rows`):

    up6 BTC o101.20 h102.00 l100.90 c101.70 v53120
    date=2018-01-01 GOOG=1.0182 AAPL=1.0119

and questions so (`questions.py` has every wording it was trained on):

    What was the last close?                        101.70
    Was the last bar up or down?                    up
    Is the trend up or down over the last 10 bars?  up
    Is the trend up or down?                        up (means the last 10 bars)

Trained for {trained["minutes"]:.0f} minutes on two CPU cores, {trained["steps"]} steps,
{trained["tokens"] / 1e6:.1f} M tokens of made-up streams, seed {trained["recipe"]["seed"]}
(`python -m workbench.tape train`; `LOG.md` says how the recipe changed on the way).
Weights are bfloat16; SHA-256 `{trained["sha256"]}`.

## What it can do

In contexts up to 2048 tokens (some 60 bars); the figure is the worst of the lengths measured.

{chr(10).join(lists)}
Longer contexts: it was trained on contexts of up to {longest} tokens, and its config allows 16384.
The mean over the kinds that it does, by length of context:

{by_length}

Real rows can be harder than made-up ones: see the last table before asking about rows of several
columns.

Anything else (other wordings, other questions, conversation, forecasts, advice) was not trained and
was not measured: expect nonsense.

## Figures

Held-out streams, asked about the last quarter of a context of the stated length; exact answers, or
the right one of two choices. Baseline is always giving the commonest answer.

{tables(made)}
Prices are read and answered with five significant digits, as the renderer prints them. "Up or down
over the last k bars" compares the last close with the close k bars before it; equal closes are
never asked about here, and get "up" or "down" all the same. The size of a move is measured against
the usual move over k bars (the spread of one bar's move in the last 60, times the root of k). The
answer about a slight move is close to a coin toss.
"""


def _order(what: str) -> tuple[int, str]:
    digits = "".join(c for c in what if c.isdigit())
    return (int(digits) if what.startswith("up or down over") and digits else 0, what)


def _sample(schema_name: str, rows: list[Row]) -> Sample:
    text = schema_for(schema_name).render(rows)
    return Sample(None, schema_name, rows, [line + "\n" for line in text.split("\n")[:-1]])
