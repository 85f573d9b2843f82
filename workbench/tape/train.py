"""The recipe of the embedded model; the same seed and number of steps give the same weights.

Each step draws its streams from (seed, step), so a run goes on from a checkpoint as if it had never
stopped. The schedule is a function of the share done: of ``steps``, or, when ``minutes`` is given
instead, of the time spent, checkpointed time included.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from workbench.tape import weights_path
from workbench.tape.batch import Batch, make_batch
from workbench.tape.questions import HINTS, MIX, ask, stream
from workbench.tape.tokenizer import MAX_LENGTH, build_tokenizer


@dataclass(frozen=True)
class Shape:
    """The size of the model."""

    dim: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    hidden: int = 640
    rope_theta: float = 20_000.0


@dataclass(frozen=True)
class Stage:
    """Part of the schedule, up to ``until`` (share done): lengths in tokens, ``max_k`` in bars.

    ``mix`` is as in `ask`.
    """

    until: float
    batch: int
    context: int
    branches: int
    max_k: int
    mix: tuple[float, ...] = MIX


STAGES = (
    Stage(0.72, batch=6, context=448, branches=384, max_k=10, mix=(0.26, 0.26, 0.40, 0.08)),
    Stage(0.86, batch=3, context=1024, branches=512, max_k=20),
    Stage(1.00, batch=1, context=2560, branches=1024, max_k=20),
)


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on; give ``steps`` or ``minutes``."""

    seed: int = 20_260_105
    steps: int | None = None
    minutes: float | None = None
    shape: Shape = Shape()
    stages: tuple[Stage, ...] = STAGES
    learning_rate: float = 3e-3
    warmup: int = 100
    decay_from: float = 0.65
    row_loss: float = 0.2
    hint_loss: float = 0.5
    average: float = 0.995  # of the weights that are kept, per step


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, its pairs learned from 600 streams of ``seed`` and questions about them."""
    rng = np.random.default_rng([seed, 0])

    def texts() -> Iterator[str]:
        for _ in range(600):
            sample = stream(rng, 30)
            yield sample.head + "".join(sample.lines)
            for _ in range(30):
                asked = ask(rng, sample, int(rng.integers(1, 31)))
                if asked:
                    yield asked.text
                    yield asked.answer

    return build_tokenizer(texts())


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model of ``shape``, its weights drawn from ``seed``."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
        attn_implementation="branching",
    )
    return LlamaForCausalLM(config)


def losses(
    model: LlamaForCausalLM, hint_head: torch.nn.Linear, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean loss of the answers' tokens, of the rows' tokens, and of the hints at the rows' ends.

    The hints are read one layer before the last, which can then carry them to an answer.
    """
    out = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        ends=batch.ends,
        output_hidden_states=True,
    )
    hidden = out.last_hidden_state
    scored = (batch.answer_weight + batch.row_weight) > 0
    loss = functional.cross_entropy(
        model.lm_head(hidden[scored]).float(), batch.targets[scored], reduction="none"
    )
    answer, row = batch.answer_weight[scored], batch.row_weight[scored]
    known = ~batch.hints.isnan()
    states = out.hidden_states[-2][:, : batch.hints.shape[1]]
    states = states * torch.rsqrt(states.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    at_ends = known.any(-1)
    guessed = hint_head(states[at_ends]).float()[known[at_ends]]
    hint = functional.binary_cross_entropy_with_logits(guessed, batch.hints[known], reduction="sum")
    return (
        (loss * answer).sum() / answer.sum().clamp(min=1.0),
        (loss * row).sum() / row.sum(),
        hint / known.sum().clamp(min=1),
    )


class Run:
    """One training run: the model, its optimizers and averaged weights, and how far it is."""

    def __init__(self, recipe: Recipe, *, device: str = "cpu") -> None:
        """A run of ``recipe`` at its beginning, on a torch ``device``."""
        self.recipe = recipe
        self.device = torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(weights_path())
        self.model = make_model(recipe.shape, self.tokenizer, recipe.seed).to(self.device)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        inside = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in inside]
        self.hint_head = torch.nn.Linear(recipe.shape.dim, len(HINTS)).to(self.device)
        others += self.hint_head.parameters()
        self.optimizers = (
            torch.optim.Muon(
                matrices, lr=0.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4
            ),
            torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.step = 0
        self.seconds = 0.0
        self.tokens = 0
        self.began: list[int] = []  # the step each stage began at

    @property
    def done(self) -> float:
        """The share done, from 0 to 1."""
        recipe = self.recipe
        if recipe.steps is not None:
            return min(1.0, self.step / recipe.steps)
        return min(1.0, self.seconds / 60 / (recipe.minutes or 60.0))

    def advance(self) -> dict[str, float]:
        """One step; returns its losses."""
        began = time.monotonic()
        recipe, done = self.recipe, self.done
        stage = next((s for s in recipe.stages if done < s.until), recipe.stages[-1])
        if recipe.stages.index(stage) == len(self.began):
            self.began.append(self.step)
        rng = np.random.default_rng([recipe.seed, 1, self.step])
        batch = make_batch(
            self.tokenizer,
            rng,
            batch=stage.batch,
            context=stage.context,
            branches=stage.branches,
            max_k=stage.max_k,
            mix=stage.mix,
        ).to(self.device)
        rate = recipe.learning_rate * min(1.0, (self.step + 1) / recipe.warmup)
        if done > recipe.decay_from:
            rate *= max(0.02, (1 - done) / (1 - recipe.decay_from))
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16):
            answer, row, hint = losses(self.model, self.hint_head, batch)
            loss = answer + recipe.row_loss * row + recipe.hint_loss * hint
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if math.isfinite(float(norm)):
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.hint_head.zero_grad(set_to_none=True)
        share = min(recipe.average, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - share)
        self.step += 1
        self.tokens += batch.ids.numel()
        self.seconds += time.monotonic() - began
        return {
            "answer": float(answer.detach()),
            "row": float(row.detach()),
            "hint": float(hint.detach()),
            "rate": rate,
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "recipe": asdict(self.recipe),
                "model": self.model.state_dict(),
                "hint_head": self.hint_head.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "average": self.average,
                "step": self.step,
                "seconds": self.seconds,
                "tokens": self.tokens,
                "began": self.began,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe."""
        kept = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.hint_head.load_state_dict(kept["hint_head"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.average = kept["average"]
        self.step, self.seconds, self.tokens = kept["step"], kept["seconds"], kept["tokens"]
        self.began = kept["began"]

    def averaged(self) -> LlamaForCausalLM:
        """A copy of the model with the averaged weights, as bfloat16."""
        copy = make_model(self.recipe.shape, self.tokenizer, self.recipe.seed)
        with torch.no_grad():
            for parameter, mean in zip(copy.parameters(), self.average, strict=True):
                parameter.copy_(mean)
        return copy.to(torch.bfloat16)

    def export(self, folder: Path) -> str:
        """Write weights and tokenizer for ``from_pretrained``; returns the weights' digest."""
        folder.mkdir(parents=True, exist_ok=True)
        model = self.averaged()
        model.generation_config = GenerationConfig(
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,
            max_new_tokens=16,
        )
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        trained = {
            "recipe": asdict(self.recipe),
            "steps": self.step,
            "stages_began_at": self.began,
            "tokens": self.tokens,
            "minutes": round(self.seconds / 60, 1),
            "sha256": digest(folder),
        }
        (folder / "card.json").write_text(json.dumps({"trained": trained}, indent=2) + "\n")
        return trained["sha256"]


def digest(folder: Path) -> str:
    """SHA-256 of the folder's weights file, in hex."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def train(
    recipe: Recipe,
    folder: Path,
    checkpoint: Path,
    *,
    device: str = "cpu",
    every: float = 120.0,
) -> Run:
    """Train to the end of ``recipe``, from ``checkpoint`` if it is there; export into ``folder``.

    A checkpoint is written every ``every`` seconds, and progress to stderr.
    """
    run = Run(recipe, device=device)
    if checkpoint.exists():
        run.load(checkpoint)
    saved = run.seconds
    recent: list[dict[str, float]] = []
    while run.done < 1.0:
        recent.append(run.advance())
        if run.step % 50 == 0:
            mean = {key: float(np.mean([r[key] for r in recent])) for key in recent[0]}
            sys.stderr.write(
                f"{run.done:6.1%} step {run.step} answer {mean['answer']:.3f} "
                f"row {mean['row']:.3f} hint {mean['hint']:.3f} rate {mean['rate']:.1e} "
                f"tokens {run.tokens / 1e6:.2f} M {run.tokens / run.seconds:.0f}/s\n"
            )
            sys.stderr.flush()
            recent.clear()
        if run.seconds - saved > every:
            run.save(checkpoint)
            saved = run.seconds
    run.save(checkpoint)
    run.export(folder)
    return run
