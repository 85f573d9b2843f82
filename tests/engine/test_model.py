"""Loading: real folders, clear refusals, dtypes."""

import contextlib
import threading

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import workbench as wb
from workbench.cells.pool import CellPool
from workbench.cells.sequence import Sequence
from workbench.cells.tensors import CellTensors
from workbench.engine import model as model_module
from workbench.engine.batch import Part, Step
from workbench.engine.model import load
from workbench.errors import ModelError, UnsupportedModel
from workbench.testing import assert_recomputes, byte_tokenizer, tiny_model


def save(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_written_by_save_pretrained_loads_and_answers(tmp_path):
    model, tokenizer = tiny_model("qwen2")
    save(tmp_path, model, tokenizer)
    with wb.Engine(str(tmp_path), cells=512, dtype="float32") as engine:
        assert engine.dtype == torch.float32 and engine.model_name == tmp_path.name
        session = engine.open("s", cells=100)
        session.push("some rows")
        answer = session.ask("what?", max_tokens=4, timeout=60)
        assert_recomputes(model, answer, 1e-4)


def test_a_folder_with_a_calibration_gives_calibrated_choices(tmp_path):
    save(tmp_path, *tiny_model())
    (tmp_path / "calibration.json").write_text('{"temperature": 0.5}')
    with wb.Engine(tmp_path, cells=512, dtype="float32") as engine:
        session = engine.open("s", cells=100)
        session.push("some data")
        answer = session.ask("which?", choices=["up", "down"])
        up, down = answer.probabilities.values()
        total = up**2 + down**2
        assert answer.calibrated == pytest.approx({"up": up**2 / total, "down": down**2 / total})
        assert list(answer.calibrated) == list(answer.probabilities)


def test_without_a_calibration_choices_are_the_models_own():
    with wb.Engine(tiny_model(), cells=512) as engine:
        session = engine.open("s", cells=100)
        session.push("some data")
        answer = session.ask("which?", choices=["up", "down"])
        assert answer.calibrated == pytest.approx(answer.probabilities)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "[]", '{"temperature": 0}', '{"temperature": "hot"}', '{"temperature": NaN}'],
)
def test_a_calibration_without_a_temperature(tmp_path, text):
    save(tmp_path, *tiny_model())
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ModelError, match=r"calibration\.json: expected .*temperature"):
        load(tmp_path, "float32", "cpu")


def test_a_folder_without_a_tokenizer(tmp_path):
    save(tmp_path, tiny_model()[0])
    with pytest.raises(ModelError, match="tokenizer.json"):
        load(tmp_path, "float32", "cpu")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json; expected one from save_pretrained"):
        load(tmp_path, "auto", "cpu")


def test_an_id_that_is_not_to_be_had():
    with pytest.raises(ModelError, match="no/such-model"):
        load("no/such-model", "auto", "cpu")


def test_weights_that_are_missing(tmp_path):
    model, tokenizer = tiny_model()
    save(tmp_path, model, tokenizer)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path, "float32", "cpu")


SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def refuse(tmp_path, family, **config):
    config = AutoConfig.for_model(family, **config)
    save(tmp_path, AutoModelForCausalLM.from_config(config), byte_tokenizer())
    with pytest.raises(UnsupportedModel) as caught:
        load(tmp_path, "float32", "cpu")
    return str(caught.value)


def test_state_space_models_are_refused_by_name(tmp_path):
    message = refuse(tmp_path, "mamba", vocab_size=64, hidden_size=32, state_size=4,
                     num_hidden_layers=2)  # fmt: skip
    assert "mamba" in message.lower()


def test_linear_attention_layers_are_refused_by_name(tmp_path):
    message = refuse(
        tmp_path, "qwen3_next", **SMALL, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=16, shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    assert "linear_attention" in message


def test_windows_that_are_in_masks_alone_are_refused(tmp_path):
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
               "shared_expert_intermediate_size": 16}  # fmt: skip
    message = refuse(
        tmp_path, "qwen2_moe", **SMALL, **experts, use_sliding_window=True, sliding_window=16,
        max_window_layers=0,
    )  # fmt: skip
    assert "sliding window of 16" in message
    config = AutoConfig.for_model("qwen2_moe", **SMALL, **experts)
    save(tmp_path, AutoModelForCausalLM.from_config(config), byte_tokenizer())
    decoder, _ = load(tmp_path, "float32", "cpu")
    assert {shape.window for shape in decoder.layers.values()} == {None}


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_angles_that_move_are_refused_by_name(tmp_path, kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
                 "original_max_position_embeddings": 32}  # fmt: skip
    message = refuse(tmp_path, "llama", **SMALL, rope_parameters=rope)
    assert kind in message and "yarn" in message


def test_encoder_decoders_are_refused(tmp_path):
    config = AutoConfig.for_model(
        "t5", vocab_size=64, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder|cannot be loaded"):
        load(tmp_path, "float32", "cpu")


def test_a_model_that_differs_from_its_own_attention_is_refused(monkeypatch):
    """The proof at load catches what no check by name foresees."""
    model, tokenizer = tiny_model()
    layer = model.model.layers[1].self_attn
    forward = layer.forward

    def leaky(hidden_states, *args, **kwargs):
        # State from outside the cells: the whole batch's mean.
        return forward(hidden_states + hidden_states.mean(1, keepdim=True), *args, **kwargs)

    monkeypatch.setattr(layer, "forward", leaky)
    with pytest.raises(UnsupportedModel, match="keep state in a way the engine does not know"):
        load((model, tokenizer), "auto", "cpu")


@pytest.mark.parametrize("leaks", [False, True])
def test_a_build_with_a_part_of_its_own_is_run_by_transformers(leaks):
    """It is proved like any other model; our code for whole layers knows nothing of such a part."""

    class Own(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.own = mlp

        def forward(self, x):
            return self.own(x + x.mean(1, keepdim=True) if leaks else x)

    model, tokenizer = tiny_model(dtype=torch.bfloat16, hidden_size=64, head_dim=32)
    model.model.layers[1].mlp = Own(model.model.layers[1].mlp)
    if leaks:
        with pytest.raises(UnsupportedModel, match="keep state in a way the engine does not know"):
            load((model, tokenizer), "auto", "cpu")
    else:
        decoder, _ = load((model, tokenizer), "auto", "cpu")
        assert decoder.compiled is None


def test_a_loaded_pair_is_not_said_to_be_something_else():
    model, tokenizer = tiny_model(dtype=torch.float32)
    for dtype in ("bfloat16", torch.bfloat16):
        with pytest.raises(ModelError, match="'bfloat16': the loaded model is torch.float32"):
            load((model, tokenizer), dtype, "cpu")
    with pytest.raises(ModelError, match="dtype 'int4' is unknown"):
        load((model, tokenizer), "int4", "cpu")
    decoder, _ = load((model, tokenizer), "float32", "cpu")
    assert decoder.dtype == torch.float32


def test_an_engine_waits_while_its_model_is_proved_for_another(monkeypatch):
    """Its attention is transformers' own meanwhile, which knows nothing of a step's slices."""
    model, tokenizer = tiny_model("llama", dtype=torch.float32)
    first, _ = load((model, tokenizer), "auto", "cpu")
    pool = CellPool(16)
    cells = CellTensors(first.layers, 16, first.dtype, first.device)
    parts = []
    for ids in ([5, 6, 7], [8, 9]):
        trunk = Sequence(pool)
        trunk.grow(len(ids))
        parts.append(Part(trunk, 0, ids, range(len(ids))))
    step = Step.of(parts, cells, first.device)
    want = first.forward(step).clone()
    got, threads = [], []
    plain = model_module._plain_attention

    @contextlib.contextmanager
    def watched(proved):
        with plain(proved):
            threads.append(threading.Thread(target=lambda: got.append(first.forward(step).clone())))
            threads[0].start()
            threads[0].join(0.2)  # time to go wrong
            yield

    monkeypatch.setattr(model_module, "_plain_attention", watched)
    load((model, tokenizer), "auto", "cpu")
    threads[0].join()
    assert torch.equal(got[0], want)


def test_a_model_that_looks_ahead_is_refused_whatever_its_precision():
    """Its weights are so small that logits hardly show what attention saw."""
    config = AutoConfig.for_model(
        "bert", vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with pytest.raises(UnsupportedModel, match="looks at later tokens too"):
        load((model, byte_tokenizer()), "auto", "cpu")


def test_attention_that_transformers_looks_up_in_a_table_is_refused_by_name(tmp_path):
    message = refuse(tmp_path, "falcon", vocab_size=300, hidden_size=32, num_hidden_layers=1,
                     num_attention_heads=4)  # fmt: skip
    assert "falcon does not use transformers' attention interface" in message


def test_a_folder_that_is_not_there_is_called_a_folder(tmp_path):
    for name in (tmp_path / "absent", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(ModelError, match="absent' does not exist; expected one from save_pre"):
            load(name, "auto", "cpu")


def test_an_argument_of_attention_we_do_not_know_is_refused_by_name(monkeypatch):
    model, tokenizer = tiny_model()
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda *a, **k: forward(*a, **k, alibi_slopes=torch.ones(4))
    )
    with pytest.raises(UnsupportedModel, match="calls attention with alibi_slopes"):
        load((model, tokenizer), "auto", "cpu")


def test_learned_positions_work(tmp_path):
    """GPT-2: no rotary embedding, biases everywhere, a fused projection."""
    config = AutoConfig.for_model("gpt2", vocab_size=300, n_embd=32, n_layer=2, n_head=4,
                                  n_positions=256, eos_token_id=257, bos_token_id=256)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with wb.Engine((model, byte_tokenizer()), cells=512) as engine:
        session = engine.open("s")
        assert session.budget <= 256
        session.push("some rows")
        assert_recomputes(model, session.ask("what?", max_tokens=4, timeout=60), 1e-4)
