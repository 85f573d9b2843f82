"""Training the embedded model: one recipe gives one set of weights.

Each step draws its streams from (seed, step), and `recipe` says what a step is by the share of the
plan that is done; so a run may stop and go on as often as it likes and stays the same run.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.errors import WorkbenchError
from workbench.tape.batch import Batch, make_batch
from workbench.tape.beginning import begin
from workbench.tape.generators import make_stream
from workbench.tape.hints import HintHeads
from workbench.tape.questions import ask
from workbench.tape.recipe import Recipe, Shape, read_recipe
from workbench.tape.tokenizer import (
    MAX_LENGTH,
    as_fast,
    build_tokenizer,
    number_features,
    number_tokens,
)


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
    """Mean losses: of the answers' tokens, of the rows' tokens, and of the hints (four kinds)."""
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
    embeddings = model.model.embed_tokens.weight
    moves, classes, counts, names = heads(states, batch.hints, embeddings)
    return {
        "answer": (loss * answer).sum() / answer.sum().clamp(min=1.0),
        "row": (loss * row).sum() / row.sum().clamp(min=1.0),
        "moves": moves,
        "classes": classes,
        "counts": counts,
        "names": names,
    }


class Run:
    """One training run: the model, its optimizers and averaged weights, and how far it is."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: str = "cpu",
        tokenizer: PreTrainedTokenizerFast | None = None,
    ) -> None:
        """A run of ``recipe`` at its beginning, on a torch ``device``.

        Its tokenizer is learned from the recipe's streams, unless one is given.
        """
        self.recipe = recipe
        self.device = torch.device(device)
        self.tokenizer = tokenizer or make_tokenizer(recipe.seed)
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
        self.step = self.began = self.tokens = 0
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
            more=stage.more,
            names=stage.names,
            several=stage.several,
            plain=stage.plain,
            schemas=stage.schemas or recipe.schemas,
        ).to(self.device)
        rate = recipe.rate(self.tokens, self.step - self.began)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16):
            made = losses(self.model, self.heads, batch, recipe.shape.hint_layer)
            hints = made["moves"] + made["classes"] + made["counts"] + made["names"]
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
                "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "average": self.average,
                "step": self.step,
                "began": self.began,
                "tokens": self.tokens,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(path)

    @classmethod
    def begin_with(cls, folder: Path, recipe: Recipe, at: float, *, device: str = "cpu") -> Run:
        """A run of ``recipe`` that begins with the weights and the tokenizer of ``folder``, at the
        share ``at`` of the plan.

        Optimizers and hints begin anew, the rate rises over the warmup again.
        """
        if not 0 <= at < recipe.stages[-1].until:
            raise WorkbenchError(
                f"expected a share of the plan from 0 to below {recipe.stages[-1].until}, got {at}"
            )
        if not (folder / "tokenizer.json").exists():
            raise WorkbenchError(f"{folder}: expected weights and a tokenizer, as export writes")
        core = Tokenizer.from_file(str(folder / "tokenizer.json"))
        run = cls(recipe, device=device, tokenizer=as_fast(core.to_str()))
        kept = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        wanted, got = run.model.state_dict(), kept.state_dict()
        shapes = {name: tuple(value.shape) for name, value in wanted.items()}
        found = {name: tuple(value.shape) for name, value in got.items()}
        if shapes != found:
            name = min(n for n in shapes | found if shapes.get(n) != found.get(n))
            raise WorkbenchError(
                f"expected weights of {recipe.shape}, got {name} of {found.get(name, 'no shape')} "
                f"in {folder}; train without --begin-with"
            )
        run.model.load_state_dict(got)
        with torch.no_grad():
            for parameter in run.heads.parameters():  # nothing to tell the model yet
                parameter.zero_()
        run.average = [p.detach().clone() for p in run.model.parameters()]
        run.tokens = round(at * recipe.tokens)
        card = folder / "card.json"
        if card.exists():  # steps go on, so that no stream is drawn twice
            trained = json.loads(card.read_text())["trained"]
            run.step = run.began = trained["steps"]
            run.seconds = 60 * trained["minutes"]
        return run

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> Run:
        """The run that wrote the checkpoint ``path``, where it stood."""
        kept = torch.load(path, map_location=device, weights_only=True)
        tokenizer = as_fast(kept["tokenizer"])
        run = cls(read_recipe(kept["recipe"]), device=device, tokenizer=tokenizer)
        run.model.load_state_dict(kept["model"])
        run.heads.load_state_dict(kept["heads"])
        for optimizer, state in zip(run.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        run.average = kept["average"]
        run.step, run.began = kept["step"], kept["began"]
        run.tokens, run.seconds = kept["tokens"], kept["seconds"]
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


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note a first interrupt and go on, so that a step is whole; a second one interrupts."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # others get no signals
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _: object) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    run: Run,
    checkpoint: Path,
    *,
    pause: float | None = None,
    every: float = 300.0,
    progress: bool = True,
) -> bool:
    """Train ``run`` to the end of its stages; returns whether it got there.

    A checkpoint is written every ``every`` seconds, at the end, and after ``pause`` minutes or an
    interrupt, which end it early; progress goes to stderr.
    """
    from tqdm import tqdm

    began = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    total = round(run.recipe.tokens * run.recipe.stages[-1].until)
    with _interrupts() as interrupted, tqdm(
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
            if interrupted or (pause is not None and now - began > pause * 60):
                run.save(checkpoint)
                return False
            if now - saved > every:
                run.save(checkpoint)
                saved = now
    run.save(checkpoint)
    return True
