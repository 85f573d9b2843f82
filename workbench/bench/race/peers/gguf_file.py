"""A Llama as a GGUF file, for llama.cpp.

Weights go in as they are, in bfloat16; norms become float32, as llama.cpp wants.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np


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
