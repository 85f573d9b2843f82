"""The recipe of the embedded model: one seed and one plan of tokens give one set of weights.

The plan is a number of tokens, fixed when a run begins and kept in its checkpoint. Curriculum and
learning rate are functions of the share of it that is done, and each step draws its streams from
(seed, step); so a run may stop and go on as often as it likes and stays the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.errors import WorkbenchError
from workbench.tape.batch import Batch, make_batch
from workbench.tape.beginning import begin
from workbench.tape.generators import SHARES, make_stream
from workbench.tape.hints import HintHeads
from workbench.tape.questions import ask
from workbench.tape.tokenizer import MAX_LENGTH, build_tokenizer, number_features, number_tokens


@dataclass(frozen=True)
class Shape:
    """The size of the model; hints are read after ``hint_layer`` layers."""

    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 576
    rope_theta: float = 100_000.0
    hint_layer: int = 4


@dataclass(frozen=True)
class Stage:
    """Part of a run, up to ``until`` (share of the plan): lengths in tokens, ``max_k`` in rows.

    ``values`` is the share of questions that are about last values whatever the stream; ``names``
    of streams that are retold with names off no list; ``rates`` are the shares of the learning
    rate that it begins and ends with, where it has its own.
    """

    until: float
    batch: int
    context: int
    branches: int
    max_k: int = 20
    values: float = 0.0
    names: float = 0.0
    rates: tuple[float, float] | None = None


# Most of the plan is short; what long contexts need beyond that is little, and dear. They come
# last, when the rate has fallen too far to learn them, and so have a stage after the plan.
STAGES = (
    Stage(0.08, batch=10, context=256, branches=256, max_k=10, values=0.5),
    Stage(0.50, batch=8, context=512, branches=384),
    Stage(0.72, batch=4, context=1024, branches=640),
    Stage(0.88, batch=2, context=2304, branches=1024),
    Stage(0.96, batch=1, context=4608, branches=1536),
    Stage(1.00, batch=1, context=9216, branches=2048),
    Stage(1.06, batch=1, context=9216, branches=2048, values=0.3, rates=(0.12, 0.01)),
    # Names that no list holds, which the stages so far have not seen.
    Stage(1.16, batch=8, context=512, branches=384, names=0.7, rates=(0.3, 0.15)),
    Stage(1.22, batch=2, context=2304, branches=1024, names=0.6, rates=(0.15, 0.08)),
    Stage(1.25, batch=1, context=9216, branches=2048, values=0.3, names=0.5, rates=(0.08, 0.01)),
)


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on.

    Attributes:
        tokens: the plan, contexts and branches together.
        averaged: the weights that are kept are a mean over about so many tokens.
    """

    tokens: int
    seed: int = 20_261_121
    shape: Shape = Shape()
    stages: tuple[Stage, ...] = STAGES
    schemas: tuple[float, ...] = SHARES
    learning_rate: float = 3e-3
    warmup: int = 200
    decay_from: float = 0.5
    last_rate: float = 0.02
    row_loss: float = 0.6
    hint_loss: float = 0.5
    averaged: int = 250_000

    def done(self, tokens: int) -> float:
        """The share of the whole run that ``tokens`` tokens are, from 0 to 1."""
        return min(1.0, tokens / self.tokens / self.stages[-1].until)

    def stage(self, tokens: int) -> Stage:
        """The stage that a run of ``tokens`` tokens so far is in."""
        done = tokens / self.tokens
        return next((s for s in self.stages if done < s.until), self.stages[-1])

    def rate(self, tokens: int, step: int) -> float:
        """The learning rate there: up, level, then down in a straight line; or the stage's own."""
        done = tokens / self.tokens
        rate = self.learning_rate * min(1.0, (step + 1) / self.warmup)
        stage = self.stage(tokens)
        if stage.rates is not None:
            began = max([s.until for s in self.stages if s.until < stage.until], default=0.0)
            share = min(1.0, (done - began) / (stage.until - began))
            rate *= stage.rates[0] + (stage.rates[1] - stage.rates[0]) * share
        elif done > self.decay_from:
            rate *= max(self.last_rate, (1 - done) / (1 - self.decay_from))
        return rate


@lru_cache(maxsize=2)
def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, its pairs learned from 1200 streams of ``seed`` and questions about them."""
    rng = np.random.default_rng([seed, 0])

    def texts() -> Iterator[str]:
        for _ in range(1200):
            stream = make_stream(rng, 16)
            yield stream.head + "".join(stream.lines)
            for _ in range(24):
                asked = ask(rng, stream, int(rng.integers(1, 17)))
                if asked:
                    yield asked.text
                    yield asked.answer

    return build_tokenizer(texts())


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of ``shape``: drawn from ``seed``, numbers in their order, and `begin`."""
    torch.manual_seed(seed)
    config: Any = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=len(tokenizer),
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
        attn_implementation="branching",
    )
    model: Any = LlamaForCausalLM(config)
    ids = tokenizer.convert_tokens_to_ids(number_tokens())
    features = number_features()
    spread = torch.randn(features.shape[1], shape.dim) * config.initializer_range
    with torch.no_grad():  # half of each number's embedding is its features, half its own
        rows = model.model.embed_tokens.weight
        rows[ids] = math.sqrt(0.5) * (rows[ids] + features @ spread)
    begin(model, seed)
    return cast("LlamaForCausalLM", model)


def losses(model: LlamaForCausalLM, heads: HintHeads, batch: Batch, layer: int) -> dict[str, Any]:
    """Mean losses: of the answers' tokens, of the rows' tokens, and of the hints (three kinds)."""
    out = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        ends=batch.ends,
        output_hidden_states=True,
    )
    scored = (batch.answer_weight + batch.row_weight) > 0
    loss = functional.cross_entropy(
        model.lm_head(out.last_hidden_state[scored]).float(),
        batch.targets[scored],
        reduction="none",
    )
    answer, row = batch.answer_weight[scored], batch.row_weight[scored]
    states = out.hidden_states[layer][:, : batch.context]
    assert batch.hints is not None
    moves, classes, counts = heads(states, batch.hints)
    return {
        "answer": (loss * answer).sum() / answer.sum().clamp(min=1.0),
        "row": (loss * row).sum() / row.sum().clamp(min=1.0),
        "moves": moves,
        "classes": classes,
        "counts": counts,
    }


class Run:
    """One training run: the model, its optimizers and averaged weights, and how far it is."""

    def __init__(self, recipe: Recipe, *, device: str = "cpu") -> None:
        """A run of ``recipe`` at its beginning, on a torch ``device``."""
        self.recipe = recipe
        self.device = torch.device(device)
        self.tokenizer = make_tokenizer(recipe.seed)
        model: Any = make_model(recipe.shape, self.tokenizer, recipe.seed)
        self.model: LlamaForCausalLM = model.to(self.device)
        for layer in self.model.model.layers:  # else every product under autocast casts its own
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.register_forward_hook(_halved)
        self.heads = HintHeads(recipe.shape.dim).to(self.device)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        inside = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in inside]
        self.optimizers = (
            torch.optim.Muon(
                matrices, lr=0.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4
            ),
            torch.optim.AdamW(
                [*others, *self.heads.parameters()], lr=0.0, betas=(0.9, 0.98), weight_decay=0.0
            ),
        )
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.step = self.tokens = 0
        self.seconds = 0.0

    @property
    def done(self) -> float:
        """The share of the run that is done, from 0 to 1."""
        return self.recipe.done(self.tokens)

    def advance(self) -> dict[str, float]:
        """One step; returns its losses and learning rate."""
        began = time.monotonic()
        recipe = self.recipe
        stage = recipe.stage(self.tokens)
        batch = make_batch(
            self.tokenizer,
            np.random.default_rng([recipe.seed, 1, self.step]),
            batch=stage.batch,
            context=stage.context,
            branches=stage.branches,
            max_k=stage.max_k,
            values=stage.values,
            names=stage.names,
            schemas=recipe.schemas,
        ).to(self.device)
        rate = recipe.rate(self.tokens, self.step)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16):
            made = losses(self.model, self.heads, batch, recipe.shape.hint_layer)
            hints = made["moves"] + made["classes"] + made["counts"]
            loss = made["answer"] + recipe.row_loss * made["row"] + recipe.hint_loss * hints
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if math.isfinite(float(norm)):
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.heads.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.ids.numel()
        share = 1 - math.exp(-batch.ids.numel() / min(recipe.averaged, self.tokens))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], share)
        self.seconds += time.monotonic() - began
        return {name: float(value.detach()) for name, value in made.items()} | {"rate": rate}

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "recipe": asdict(self.recipe),
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "average": self.average,
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> Run:
        """The run that wrote the checkpoint ``path``, where it stood."""
        kept = torch.load(path, map_location=device, weights_only=True)
        run = cls(read_recipe(kept["recipe"]), device=device)
        run.model.load_state_dict(kept["model"])
        run.heads.load_state_dict(kept["heads"])
        for optimizer, state in zip(run.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        run.average = kept["average"]
        run.step, run.tokens, run.seconds = kept["step"], kept["tokens"], kept["seconds"]
        return run

    def averaged(self) -> LlamaForCausalLM:
        """A copy of the model with the averaged weights, as bfloat16."""
        copy: Any = make_model(self.recipe.shape, self.tokenizer, self.recipe.seed)
        with torch.no_grad():
            for parameter, mean in zip(copy.parameters(), self.average, strict=True):
                parameter.copy_(mean)
        return cast("LlamaForCausalLM", copy.to(torch.bfloat16))


def _halved(_: torch.nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
    return out.to(torch.bfloat16) if torch.is_autocast_enabled(out.device.type) else out


def read_recipe(kept: dict[str, Any]) -> Recipe:
    """The recipe that ``asdict`` made ``kept`` of."""
    stages = tuple(
        Stage(**(stage | {"rates": stage["rates"] and tuple(stage["rates"])}))
        for stage in kept["stages"]
    )
    parts = {"shape": Shape(**kept["shape"]), "stages": stages, "schemas": tuple(kept["schemas"])}
    return Recipe(**(kept | parts))


def train(
    run: Run,
    checkpoint: Path,
    *,
    pause: float | None = None,
    every: float = 300.0,
    progress: bool = True,
) -> bool:
    """Train ``run`` to the end of its stages; returns whether it got there.

    A checkpoint is written every ``every`` seconds, at the end, and after ``pause`` minutes, which
    end it early; progress goes to stderr.
    """
    from tqdm import tqdm

    began = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    if run.step == 0 and run.recipe.tokens < 1:
        raise WorkbenchError(f"expected a plan of tokens, got {run.recipe.tokens}; give --tokens")
    total = round(run.recipe.tokens * run.recipe.stages[-1].until)
    with tqdm(
        total=total, initial=run.tokens, unit=" tokens", unit_scale=True,
        mininterval=5, disable=not progress,
    ) as bar:  # fmt: skip
        while run.done < 1.0:
            before = run.tokens
            recent.append(run.advance())
            bar.update(run.tokens - before)
            if run.step % 100 == 0:
                means = {n: float(np.mean([r[n] for r in recent])) for n in recent[0]}
                recent.clear()
                if progress:
                    shown = " ".join(f"{n} {v:.3g}" for n, v in means.items())
                    bar.write(f"{run.done:6.1%} step {run.step} {shown}", file=bar.fp)
            now = time.monotonic()
            if pause is not None and now - began > pause * 60:
                run.save(checkpoint)
                return False
            if now - saved > every:
                run.save(checkpoint)
                saved = now
    run.save(checkpoint)
    return True
