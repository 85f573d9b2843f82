"""Any Hugging Face decoder behind one call; what cannot be computed exactly is refused by name."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer

import workbench_kernels as kernels
from workbench.cells import pages
from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors, LayerShape
from workbench.engine.batch import Part, Step
from workbench.engine.compiled import CompiledSteps
from workbench.engine.fused import FusedSteps
from workbench.engine.graphs import Graphs
from workbench.engine.linear import pack
from workbench.engine.placement import auto_device, auto_dtype
from workbench.engine.sampler import stored_temperature
from workbench.errors import ModelError, UnsupportedModel

ATTENTION = "workbench"
CHECK = "comparing with the model's own attention"

_USING: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()  # by model, who runs it

# Layer types whose attention is ours to compute; anything else in `config.layer_types` is refused.
KNOWN_LAYERS = {"full_attention", "sliding_attention", "dense", "sparse", "moe"}

# Rotary schemes whose angles depend on how long the sequence has become: a cached key would have
# to be turned again.
MOVING_ROTARY = {"dynamic", "longrope", "su"}

# Arguments of an attention layer that change nothing here.
HARMLESS = {
    "position_ids", "use_cache", "cache_position", "is_causal", "position_embeddings",
    "output_attentions", "output_hidden_states", "output_router_logits", "logits_to_keep",
}  # fmt: skip


def _using(model: Any) -> threading.RLock:
    return _USING.setdefault(model, threading.RLock())


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    workbench_step: Any = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer; shapes ``[1, heads, tokens, dim]``."""
    if workbench_step is None:
        msg = (
            f"{type(module).__name__} was called without the engine's batch: either the model "
            "does not pass keyword arguments on to its attention, and cannot be run, or an engine "
            "has it; after closing that, model.set_attn_implementation('sdpa') gives it back"
        )
        raise UnsupportedModel(msg)
    if getattr(module, "is_causal", True) is False:
        msg = (
            f"{type(module).__name__} looks at later tokens too, and a session's rows cannot be "
            "computed again for every new one; use a causal decoder"
        )
        raise UnsupportedModel(msg)
    if unknown := {k for k, v in others.items() if v is not None} - HARMLESS:
        msg = (
            f"{type(module).__name__} calls attention with {', '.join(sorted(unknown))}, which "
            "the engine cannot compute exactly; use a model without it"
        )
        raise UnsupportedModel(msg)
    out = workbench_step.attend(
        module.layer_idx,
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return out[None], None


AttentionInterface.register(ATTENTION, _attention)

# Families whose attention is not told the window that transformers (5.23) masks in all layers.
MASKED = {"qwen2_moe", "phimoe", "doge"}


class _Survey:
    """Stands in for a step once, to learn what each attention layer keeps."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, **_: Any
    ) -> Tensor:
        if layer in self.layers:
            msg = f"layer {layer} attends twice in one forward; such models cannot be run"
            raise UnsupportedModel(msg)
        if q.shape[1] % k.shape[1]:
            msg = f"layer {layer} has {q.shape[1]} heads over {k.shape[1]} KV heads; not a multiple"
            raise UnsupportedModel(msg)
        self.layers[layer] = LayerShape(q.shape[1], k.shape[1], k.shape[2], v.shape[2], window)
        return torch.zeros(*q.shape[:2], v.shape[2], dtype=q.dtype, device=q.device)


class Decoder:
    """A causal language model that runs ragged steps over the pool's cells.

    Attributes:
        model: the transformers model, in evaluation mode.
        layers: what each attention layer keeps per token.
        max_positions: the most positions the model is made for.
        compiled: runs steps on a CPU in one call; None where transformers' code runs them.
        fused: runs steps on a GPU in few launches; None where transformers' code runs them.
        graphs: replays short steps on a GPU; None on a CPU.
        choice_temperature: makes the probabilities of choices say how often they are right; 1
            where the model's folder has no ``calibration.json``.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.name = name
        self.model = model.eval()
        self.config = model.config.get_text_config(decoder=True)
        self.device = str(model.device)
        self.dtype: torch.dtype = model.dtype
        self._on_gpu = kernels.active(self.device) == "triton"
        self.max_positions: int = getattr(self.config, "max_position_embeddings", None) or 2**31
        self.compiled: CompiledSteps | None = None
        self.fused: FusedSteps | None = None
        self.graphs: Graphs | None = None
        self.choice_temperature = 1.0
        # Engines may share a model, whose attention is another one while it is proved.
        self._using = _using(model)
        with self._using, _refusals(name):
            self.layers = self._survey()
            pack(self.model)
            others = [p for name, p in self.model.named_parameters() if "packed" not in name]
            pages.move(others)
            if self._on_gpu:
                self.fused = FusedSteps.of(self.model, self.layers)
                if not self._waits_for_experts():
                    self.graphs = Graphs(self._launch, self.layers, self.dtype)
            else:
                self.compiled = CompiledSteps.of(self.model, self.layers)
            self._prove()

    def _waits_for_experts(self) -> bool:
        """Whether a forward fetches from the device how many tokens each expert got.

        torch's grouped product does, but for bfloat16 on compute capability 9.0 and 10.0. No graph
        can be captured then, and torch 2.11 cannot be trusted with memory after it was tried.
        """
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        if not any(getattr(self.config, name, None) for name in names):
            return False
        device = torch.device(self.device)
        if device.type != "cuda":
            return False
        inside = torch.cuda.get_device_capability(device) in ((9, 0), (10, 0))
        return not (inside and self.dtype == torch.bfloat16)

    @property
    def bytes_per_cell(self) -> int:
        """Bytes of K and V per token, over all layers."""
        return sum(shape.bytes_per_cell(self.dtype) for shape in self.layers.values())

    @property
    def vocab_size(self) -> int:
        """How many token ids there are."""
        return int(self.config.vocab_size)

    def forward(self, step: Any) -> Tensor:
        """Run one step; returns logits ``[kept, vocab]``, float32 on a CPU.

        On a GPU they are in the model's dtype, not yet computed, and hold until the next step.
        ``step`` carries ids, positions and the rows to keep, and computes the attention.
        """
        with torch.inference_mode():
            if self._on_gpu:
                # Whoever captures holds the model first, as whoever loads it anew does.
                with contextlib.nullcontext() if self.fused is not None else self._using:
                    if self.graphs is not None and self.graphs.fits(step):
                        return self.graphs.forward(step)[: len(step.labels)]
                    return self._launch(step)[: len(step.labels)]
            if self.compiled is not None:
                return self.compiled.forward(step)
            return self._run(step)[: len(step.labels)].float()

    def _launch(self, step: Any) -> Tensor:
        """One step on a GPU, kernel by kernel; padded rows of logits included."""
        return self._run(step) if self.fused is None else self.fused.forward(step)

    def _run(self, step: Any) -> Tensor:
        """One step through transformers' own code; at least one row of logits."""
        keep = step.keep if len(step.keep) else step.keep.new_zeros(1)
        with self._using:
            out = self.model(
                input_ids=step.ids,
                position_ids=step.positions,
                use_cache=False,
                logits_to_keep=keep,
                workbench_step=step,
            )
        logits: Tensor = out.logits[0]
        return logits

    @contextlib.contextmanager
    def as_plain(self) -> Iterator[Any]:
        """The model with transformers' own eager attention; no other engine steps it meanwhile."""
        with self._using, _plain_attention(self.model), torch.inference_mode():
            yield self.model

    def _survey(self) -> dict[int, LayerShape]:
        _refuse_by_config(self.config)
        survey = _Survey()
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        positions = torch.arange(2, device=self.device)[None]
        with torch.inference_mode():
            self.model(
                input_ids=ids, position_ids=positions, use_cache=False, workbench_step=survey
            )
        expected = int(self.config.num_hidden_layers)
        if len(survey.layers) != expected:
            missing = sorted(set(range(expected)) - set(survey.layers))
            msg = (
                f"{len(survey.layers)} of {expected} layers use transformers' attention interface "
                f"(layers {missing[:8]} do not), so their state is not in the cells; use a model "
                "whose layers all do"
            )
            raise UnsupportedModel(msg)
        self._check_windows(survey.layers)
        return survey.layers

    def _check_windows(self, layers: dict[int, LayerShape]) -> None:
        """Refuse a model whose sliding windows are in its masks alone, where nobody here looks."""
        kinds = getattr(self.config, "layer_types", None)
        size = getattr(self.config, "sliding_window", None)
        if getattr(self.config, "use_sliding_window", True) is False:
            size = None
        if self.config.model_type in MASKED:
            bare = list(layers)
        elif kinds:
            bare = [i for i in layers if kinds[i] == "sliding_attention" and not layers[i].window]
        else:
            bare = [] if any(shape.window for shape in layers.values()) else list(layers)
        if bare and size and size < self.max_positions:
            msg = (
                f"layers {bare[:8]} have a sliding window of {size:,} that they do not tell the "
                "attention interface, so it cannot be kept; use a model without one"
            )
            raise UnsupportedModel(msg)

    def _prove(self) -> None:
        """Compare a chunked, branched run with the model's own attention, once, on a few tokens.

        Whatever the checks by name did not foresee (state outside attention, masks of its own)
        shows here as a difference.
        """
        generator = torch.Generator().manual_seed(0)
        num = 24
        ids = torch.randint(0, self.vocab_size, (num,), generator=generator).tolist()
        pool = CellPool(2 * num)
        cells = CellTensors(self.layers, 2 * num, self.dtype, self.device)
        trunk = Sequence(pool)
        trunk.grow(num)
        got = []
        for start, end in ((0, 7), (7, 8), (8, 15)):
            step = Step.of([Part(trunk, start, ids[start:end], range(end - start))], cells,
                           self.device)  # fmt: skip
            got.append(self.forward(step).float().clone())
        branch = trunk.branch(15)
        branch.grow(num - 15)
        last = Part(branch, 15, ids[15:], range(num - 15))
        got.append(self.forward(Step.of([last], cells, self.device)).float())
        with self.as_plain() as model:
            tokens = torch.tensor([ids], device=self.device)
            want = model(input_ids=tokens, use_cache=False).logits[0].float()
        error = (torch.cat(got) - want).abs().max().item()
        spread = want.std().item()
        # The same sums in another order: a few units in the last place per layer, of values the
        # size of the logits' spread. State that the cells do not hold is off by the spread itself.
        bound = max(1e-6, spread) * math.sqrt(len(self.layers)) * 16 * torch.finfo(self.dtype).eps
        bound = max(bound, 0.05 * spread if self.dtype.itemsize == 2 else 1e-3 * spread)
        if not error <= bound:
            msg = (
                f"logits of a chunked run differ from the model's own by {error:.3g} "
                f"(bound {bound:.3g}); {type(self.model).__name__} must mask or keep state in a "
                "way the engine does not know, and will not be run"
            )
            raise UnsupportedModel(msg)


@contextlib.contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """The model with transformers' own eager attention, for comparison."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(ATTENTION)


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn whatever a model does with our arguments into one clear refusal."""
    try:
        yield
    except UnsupportedModel as error:
        msg = f"{name}: {error}"
        raise UnsupportedModel(msg) from None
    except (TypeError, AttributeError, KeyError, RuntimeError, ValueError) as error:
        msg = f"{name}: its forward pass does not take the engine's batch ({error})"
        raise UnsupportedModel(msg) from error


def _refuse_by_config(config: Any) -> None:
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        msg = f"{name} is an encoder-decoder; use a decoder-only model"
        raise UnsupportedModel(msg)
    if not getattr(config, "is_causal", True) or getattr(
        config, "use_bidirectional_attention", None
    ):
        msg = f"{name} attends in both directions; use a causal model"
        raise UnsupportedModel(msg)
    if unknown := set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS:
        msg = (
            f"{name} has {', '.join(sorted(unknown))} layers, whose state the cells cannot hold; "
            "use a model of full or sliding attention"
        )
        raise UnsupportedModel(msg)
    if moving := _rotary_types(config) & MOVING_ROTARY:
        msg = (
            f"{name} has {', '.join(sorted(moving))} rotary embeddings, which turn old keys as the "
            "context grows; use a model with default, linear, yarn or llama3 scaling"
        )
        raise UnsupportedModel(msg)


def _rotary_types(config: Any) -> set[str]:
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key in ("rope_type", "type"):
                if isinstance(value.get(key), str):
                    found.add(value[key])
            for inner in value.values():
                walk(inner)

    walk(getattr(config, "rope_parameters", None))
    walk(getattr(config, "rope_scaling", None))
    return found


def load(
    source: str | Path | tuple[Any, Any],
    dtype: str | torch.dtype,
    device: str,
    at: Callable[[str], None] = lambda stage: None,
) -> tuple[Decoder, Any]:
    """Load a decoder and its tokenizer.

    Args:
        source: a Hugging Face id, a folder written by ``save_pretrained``, or a
            ``(model, tokenizer)`` pair that is already loaded.
        dtype: "auto", "bfloat16", "float32" or a torch dtype.
        device: "auto", "cpu", "cuda" or "cuda:0".
        at: told each stage in words as it begins; what it raises ends the loading.

    Raises:
        ModelError: it cannot be found or read; UnsupportedModel: it cannot be run exactly.
    """
    asked, device = device, auto_device(device)
    if isinstance(source, tuple):
        model, tokenizer = source
        _refuse_other(model, dtype, asked)
        with _using(model):
            model.set_attn_implementation(ATTENTION)
        at(CHECK)
        return Decoder(model, model.config.name_or_path or type(model).__name__), tokenizer
    name = str(source)
    if (folder := Path(name)).is_dir():
        name = folder.name
        if not (folder / "config.json").exists():
            msg = f"model folder {folder} has no config.json; expected one from save_pretrained"
            raise ModelError(msg)
    elif isinstance(source, Path) or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        msg = f"model folder {name!r} does not exist; expected one from save_pretrained"
        raise ModelError(msg)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        msg = f"model {str(source)!r} cannot be loaded: {_first_line(error)}"
        raise ModelError(msg) from error
    _refuse_by_config(config.get_text_config(decoder=True))
    tokenizer = _load_tokenizer(source)
    at("reading the weights" if folder.is_dir() else "fetching and reading the weights")
    try:
        with _quiet_loading() if folder.is_dir() else contextlib.nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=auto_dtype(dtype, device), attn_implementation=ATTENTION
            )
    except (OSError, ValueError, KeyError) as error:
        if not isinstance(error, OSError) and ATTENTION in str(error):
            msg = f"{name}: {config.model_type} does not use transformers' attention interface"
            raise UnsupportedModel(msg) from error
        msg = f"model {str(source)!r} cannot be loaded: {_first_line(error)}"
        raise ModelError(msg) from error
    at(CHECK)
    decoder = Decoder(loaded.to(device), name)
    if folder.is_dir():
        decoder.choice_temperature = stored_temperature(folder)
    return decoder, tokenizer


def _refuse_other(model: Any, dtype: str | torch.dtype, device: str) -> None:
    """A loaded model runs as it is: a dtype or device asked for beside it has to be its own."""
    if dtype != "auto" and (wanted := auto_dtype(dtype, device)) != model.dtype:
        msg = (
            f"dtype={str(dtype).removeprefix('torch.')!r}: the loaded model is {model.dtype}; "
            f"convert it with model.to({wanted}), or leave dtype out"
        )
        raise ModelError(msg)
    if device != "auto" and torch.device(device).type != model.device.type:
        msg = (
            f"device={device!r}: the loaded model is on {model.device}; move it with "
            f"model.to({device!r}), or leave device out"
        )
        raise ModelError(msg)


def _load_tokenizer(source: str | Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # every tokenizer family raises its own kind
        msg = (
            f"model {str(source)!r} has no tokenizer that loads ({_first_line(error)}); put "
            "tokenizer.json and tokenizer_config.json beside its config.json"
        )
        raise ModelError(msg) from error
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer) == 0:
        msg = (
            f"model {str(source)!r} has no fast tokenizer; put a tokenizer.json beside its "
            "config.json"
        )
        raise ModelError(msg)
    return tokenizer


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hugging Face's weight-loading bar is noise for a model of a few megabytes."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
