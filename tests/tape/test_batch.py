"""Contexts with branches: what each token sees, and what it is asked to learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from workbench.streams.render import move_text
from workbench.tape.attention import GROUP, _Blocks
from workbench.tape.batch import _hints, context_ids, make_batch, row_ids, word_starts
from workbench.tape.generators import ENTITY, SCHEMAS, make_stream, read_stream
from workbench.tape.hints import (
    CLASSES,
    COUNTS,
    EXTREMES,
    MOVES,
    NAME_TOKENS,
    SIZES,
    HintHeads,
    number_words,
    row_targets,
)
from workbench.tape.moments import mark
from workbench.tape.names import retold
from workbench.tape.recipe import Shape
from workbench.tape.train import make_model

SHAPE = Shape(dim=32, layers=2, heads=4, kv_heads=2, hidden=64)


def make(tokenizer, seed=3, **sizes):
    sizes = {"batch": 1, "context": 128, "branches": GROUP, "max_k": 3} | sizes
    return make_batch(tokenizer, np.random.default_rng(seed), **sizes)


def tree_logits(model, batch):
    return model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        ends=batch.ends,
        use_cache=False,
    ).logits


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(SHAPE, tokenizer, 1).eval()


def test_a_branch_is_computed_as_the_same_text_in_a_line(model, tokenizer):
    plain = LlamaForCausalLM(copy.deepcopy(model.config))
    plain.set_attn_implementation("sdpa")
    plain.load_state_dict(model.state_dict())
    batch = make(tokenizer)
    with torch.inference_mode():
        logits = tree_logits(model, batch)[0]
        position, ids = batch.positions[0], batch.ids[0]
        begins = [
            i for i in range(129, 128 + GROUP) if position[i] != position[i - 1] + 1 and ids[i] != 0
        ]
        assert begins
        for at in begins:
            end = int(position[at])
            line = torch.cat([ids[:end], ids[at : at + 5]])[None]
            expected = plain(line).logits[0, -1]
            # float32 sums in another order
            torch.testing.assert_close(logits[at + 4], expected, atol=1e-4, rtol=1e-4)


def test_attention_under_autocast_is_the_same_but_for_rounding(model, tokenizer):
    batch = make(tokenizer, batch=2, context=300, branches=2 * GROUP)
    with torch.inference_mode():
        exact = tree_logits(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = tree_logits(model, batch).float()
    # bfloat16 keeps eight bits, and roundings add up: 0.4% on average, whatever the seed, and at
    # worst 1.5 to 3% of the largest logit
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()
    assert (exact - rounded).abs().mean() < 0.01 * exact.abs().mean()


def test_a_batch_depends_only_on_the_seed(tokenizer):
    first, again, other = make(tokenizer, 1), make(tokenizer, 1), make(tokenizer, 2)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.hints.at, again.hints.at)
    assert not torch.equal(first.ids, other.ids)


@pytest.mark.parametrize(("context", "branches"), [(512, 384), (2304, 1024), (9216, 2048)])
def test_questions_are_about_every_part_of_a_context(tokenizer, context, branches):
    found = np.zeros(10)
    for seed in range(3):
        batch = make(tokenizer, seed, batch=2, context=context, branches=branches, max_k=20)
        begins = batch.mask[:, 0, :, :context].sum(-1)
        found += np.histogram(begins[begins > 0], 10, (0, context))[0]
    assert (found > 0.05 * found.sum()).all(), found


def test_a_context_shorter_than_a_row_draws_another_stream(tokenizer):
    rng = np.random.default_rng(1)
    batch = make_batch(tokenizer, rng, batch=24, context=40, branches=GROUP, names=1.0)
    assert (batch.answer_weight.sum(1) > 0).all()
    assert (batch.row_weight.sum(1) > 0).all()


@pytest.mark.parametrize("several", [0.0, 1.0])
def test_streams_have_several_members_as_often_as_a_stage_says(tokenizer, several):
    vitals = [float(schema == "vitals") for schema in SCHEMAS]
    batch = make(tokenizer, batch=8, several=several, schemas=vitals)
    names = [set() for _ in range(8)]
    for at, name in zip(batch.hints.whose_at.tolist(), batch.hints.whose.tolist(), strict=True):
        names[at // batch.context].add(tuple(name))
    assert all((len(found) > 1) == bool(several) for found in names)


def test_answers_are_scored_and_questions_are_not(tokenizer):
    batch = make(tokenizer, context=256, branches=2 * GROUP)
    answers = batch.answer_weight[0] > 0
    assert not answers[: batch.context].any()
    assert not (answers & (batch.row_weight[0] > 0)).any()
    marker = tokenizer.convert_tokens_to_ids("<|answer|>")
    for at in answers.nonzero()[:, 0].tolist():
        assert batch.ids[0, at] == marker or answers[at - 1]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_hints_stand_at_the_last_token_of_their_number(tokenizer, schema):
    rng = np.random.default_rng(4)
    for n in range(12):
        stream = make_stream(rng, 12, schema)
        stream = retold(rng, stream) if n % 2 else stream  # names of several words among them
        words = number_words(stream)
        starts = word_starts(tokenizer)
        _, rows = row_ids(tokenizer, stream, 10_000)
        for row, line in zip(rows, stream.lines, strict=True):
            begins = np.flatnonzero(starts[row])
            ends = np.append(begins, len(row) - 1) - 1
            for column, word in words.items():
                text = tokenizer.decode(row[: ends[word] + 1])
                assert line.split()[word] == text.split()[-1], column


@pytest.mark.parametrize("schema", ["ohlcv", "iot", "vitals", "spatial"])
def test_what_a_row_says_of_somebody_is_told_whose_it_is(tokenizer, schema):
    starts = word_starts(tokenizer)
    rng = np.random.default_rng(6)
    for n in range(12):
        stream = make_stream(rng, 8, schema, several=True)
        stream = retold(rng, stream) if n % 2 else stream
        head, rows = row_ids(tokenizer, stream, 10_000)
        *_, at, whose = _hints(stream, rows, len(head), starts)
        told = {}
        for place, name in zip(at.tolist(), whose.tolist(), strict=True):
            told.setdefault(tuple(t for t in name if t >= 0), []).append(place)
        for tokens, places in told.items():
            named = tokenizer.decode(tokens).strip().strip('"')
            row = stream.rows[next(r for r, end in enumerate(np.cumsum([len(x) for x in rows]))
                                   if places[0] < len(head) + end)]  # fmt: skip
            name = str(row[ENTITY[schema]])
            assert name == named or (len(tokens) == NAME_TOKENS and name.endswith(named))
        said = {place - len(head) for place in at.tolist()}
        begin = 0
        for row, line in zip(rows, stream.lines, strict=True):
            rest = tokenizer.decode([t for i, t in enumerate(row) if begin + i in said])
            assert line.rstrip("\n").endswith(rest) and rest.split()[0][0] in "ohlcvxhsdt"
            begin += len(row)


def test_names_are_learned_where_they_are_told(tokenizer):
    torch.manual_seed(0)
    batch = make_batch(
        tokenizer, np.random.default_rng(3), batch=2, context=256, branches=GROUP,
        schemas=(0, 0, 0, 0, 1, 0),
    )  # fmt: skip
    assert len(batch.hints.whose_at)
    heads, states = HintHeads(16), torch.randn(2, 256, 16)
    embeddings = torch.randn(len(tokenizer), 16)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    made = []
    for _ in range(30):
        *_, names = heads(states, batch.hints, embeddings)
        optimizer.zero_grad()
        names.backward()
        optimizer.step()
        made.append(float(names.detach()))
    assert made[-1] < 0.8 * made[0]


def test_hints_are_what_they_say():
    closes = [100.0, 101.0, 99.0, 99.0, 103.0, 102.0]
    rows = [{"o": 100.0, "h": 110.0, "l": 90.0, "c": c} for c in closes]
    stream = read_stream("ohlcv", rows)
    targets, counts = row_targets(stream, len(rows))
    moves, classes = targets["c"]
    back_3 = MOVES.index(3)
    assert np.isnan(moves[2, back_3])
    assert moves[3, back_3] == 0.0
    assert moves[4, back_3] == 1.0
    assert np.isnan(moves[3, MOVES.index(1)])  # equal closes
    size = classes[4, SIZES.index(3)]
    assert move_text("101.00", "103.00") == f"up{size}"
    most, least = len(SIZES), len(SIZES) + len(EXTREMES)
    assert classes[5, most] == 1  # of 102, 103, 99: one row back
    assert classes[5, least] == 2
    assert classes[1, most] == -100
    marks = [mark("ohlcv", row) == "up" for row in rows]
    assert counts[5, COUNTS.index(5)] == sum(marks[1:])
    assert counts[3, COUNTS.index(5)] == -100
    assert classes.max() < CLASSES


def test_hint_heads_learn_nothing_from_what_is_not_known(tokenizer):
    batch = make(tokenizer, context=256)
    heads = HintHeads(16)
    embeddings = torch.randn(len(tokenizer), 16)
    losses = heads(torch.randn(1, 256, 16), batch.hints, embeddings)
    assert all(torch.isfinite(loss) for loss in losses)
    batch.hints.moves[:] = torch.nan
    batch.hints.classes[:] = -100
    batch.hints.counts[:] = -100
    batch.hints.whose_at, batch.hints.whose = batch.hints.whose_at[:0], batch.hints.whose[:0]
    losses = heads(torch.randn(1, 256, 16), batch.hints, embeddings)
    assert [float(loss.detach()) for loss in losses] == [0, 0, 0, 0]


def test_a_context_is_whole_rows(tokenizer):
    stream = make_stream(np.random.default_rng(2), 40, "ohlcv")
    seen, ends = context_ids(tokenizer, stream, 200)
    assert len(seen) == ends[-1] <= 200
    assert tokenizer.decode(seen[1:]) == stream.head + "".join(stream.lines[: len(ends)])


def test_the_gradient_of_blocks_is_that_of_the_plain_formula(tokenizer):
    torch.manual_seed(0)
    batch = make(tokenizer, batch=2, context=300, branches=2 * GROUP)
    tokens = batch.ids.shape[1]
    query = torch.randn(2, 2, 2, tokens, 8)
    key, value = torch.randn(2, 2, tokens, 8), torch.randn(2, 2, tokens, 8)
    weight = torch.randn_like(query)

    def grads(attend, dtype):
        leaves = [x.clone().to(dtype).requires_grad_() for x in (query, key, value)]
        (attend(*leaves) * weight).sum().backward()
        return [leaf.grad.float() for leaf in leaves]

    def plain(q, k, v):
        context = batch.context
        may = torch.zeros(2, tokens, tokens, dtype=torch.bool)
        may[:, :context, :context] = torch.ones(context, context, dtype=torch.bool).tril()
        for at in range(tokens - context):
            group = context + at // GROUP * GROUP
            may[:, context + at, :context] = batch.mask[:, 0, at, :context]
            may[:, context + at, group : group + GROUP] = batch.mask[:, 0, at, context:]
        scores = torch.einsum("bsgtd,bsud->bsgtu", q, k)
        scores = scores.masked_fill(~may[:, None, None], -torch.inf)
        return torch.einsum("bsgtu,bsud->bsgtd", scores.softmax(-1), v)

    exact = grads(plain, torch.float32)
    rounded = grads(lambda q, k, v: _Blocks.apply(q, k, v, batch.mask, batch.ends), torch.bfloat16)
    for one, other in zip(exact, rounded, strict=True):
        # bfloat16 keeps eight bits
        assert (one - other).norm() < 0.02 * one.norm()


def test_room_for_branches_comes_in_whole_groups(tokenizer):
    with pytest.raises(ValueError, match="groups of 128"):
        make(tokenizer, branches=GROUP + 1)
