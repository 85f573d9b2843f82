"""llama.cpp in the race, through llama-cpp-python: its own calls, a cache that is cut back.

The weights go into a GGUF file as they are, in bfloat16; norms become float32, as llama.cpp wants.
"""

from __future__ import annotations

import ctypes
import json
import struct
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from wire import Peer, Question, Reply, serve

STEP = 2048  # tokens of one call
INNER = 512  # of one pass within it


class LlamaCpp(Peer):
    """Modes: ``warm`` (each bar is decoded when it arrives) and ``prefix`` (when asked)."""

    packages = ("llama-cpp-python", "gguf", "numpy")

    def __init__(self, settings: dict[str, Any]) -> None:
        path = Path(settings["folder"]) / "model.gguf"
        write_gguf(Path(settings["model"]), path)
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            msg = "llama.cpp did not load the GGUF file"
            raise ValueError(msg)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = -(-settings["cells"] // 256) * 256
        params.n_batch, params.n_ubatch, params.n_seq_max = STEP, INNER, 1
        params.n_threads = params.n_threads_batch = settings["threads"]
        params.flash_attn_type = 1
        params.no_perf = True
        self._ctx = llama_cpp.llama_init_from_model(self._model, params)
        if not self._ctx:
            msg = "llama.cpp did not make a context"
            raise ValueError(msg)
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._words = llama_cpp.llama_vocab_n_tokens(vocab)
        self._batch = llama_cpp.llama_batch_init(STEP, 0, 1)
        self._length = 0  # of the context
        self._at = 0  # next position
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
        self._decode(ids[self._length :])
        self._length = self._at

    def begin(self, mode: str, length: int, room: int) -> None:
        """The cache holds the context already."""
        self._waiting = []

    def arrive(self, mode: str, ids: list[int]) -> None:
        """Decode it now or remember it."""
        if mode == "warm":
            self._decode(ids)
        else:
            self._waiting += ids

    def ask(self, mode: str, question: Question) -> Reply:
        """Decode what is new and the question, then token by token."""
        logits = self._decode(self._waiting + question.ids)
        ids: list[int] = []
        logprobs: list[float] = []
        first, chances = None, None
        while True:
            if question.choices is not None:
                odds = np.exp(logits[question.choices] - logits[question.choices].max())
                chances = (odds / odds.sum()).tolist()
                ids.append(question.choices[int(odds.argmax())])
            else:
                ids.append(int(logits.argmax()))
            first = first or time.perf_counter()
            if question.scored:
                exact = logits.astype(np.float64) - logits.max()
                logprobs.append(float(exact[ids[-1]] - np.log(np.exp(exact).sum())))
            if len(ids) == question.tokens:
                return Reply(ids, first, logprobs if question.scored else None, chances)
            logits = self._decode(ids[-1:])

    def end(self, mode: str) -> None:
        """Cut the cache back."""
        llama_cpp.llama_memory_seq_rm(self._memory, 0, self._length, -1)
        self._at = self._length

    def _decode(self, ids: list[int]) -> Any:
        """Logits of the last token, valid until the next call."""
        batch = self._batch
        for start in range(0, len(ids), STEP):
            chunk = ids[start : start + STEP]
            batch.n_tokens = len(chunk)
            for i, token in enumerate(chunk):
                batch.token[i] = token
                batch.pos[i] = self._at + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = start + i == len(ids) - 1
            if code := llama_cpp.llama_decode(self._ctx, batch):
                msg = f"llama_decode returned {code}"
                raise ValueError(msg)
            self._at += len(chunk)
        pointer = llama_cpp.llama_get_logits_ith(self._ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._words,))


def write_gguf(folder: Path, path: Path) -> None:
    """A Llama saved by ``save_pretrained`` in bfloat16 as a GGUF file without a vocabulary."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, words in tensors(folder / "model.safetensors"):
        if words.ndim == 1:
            writer.add_tensor(gguf_name(name), (words.astype(np.uint32) << 16).view(np.float32))
            continue
        if "q_proj" in name or "k_proj" in name:
            words = interleaved(words, heads if "q_proj" in name else kv_heads)
        raw = np.ascontiguousarray(words).view(np.uint8)
        writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(path: Path) -> list[tuple[str, Any]]:
    """Names and bfloat16 words, as uint16, of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    found = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            msg = f"{name} is {entry['dtype']}, expected BF16"
            raise ValueError(msg)
        start, end = entry["data_offsets"]
        words = np.frombuffer(data[8 + size + start : 8 + size + end], np.uint16)
        found.append((name, words.reshape(entry["shape"])))
    return found


def interleaved(words: Any, heads: int) -> Any:
    """Rows of queries or keys in llama.cpp's order: a head's two halves take turns, for RoPE."""
    rows, columns = words.shape
    split = words.reshape(heads, 2, rows // heads // 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def gguf_name(name: str) -> str:
    """``model.layers.3.self_attn.q_proj.weight`` -> ``blk.3.attn_q.weight``."""
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.layers": "blk",
    }  # fmt: skip
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


if __name__ == "__main__":
    serve(LlamaCpp)
