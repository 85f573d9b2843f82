"""Compile the Triton kernels for GPUs that are not here; prints one JSON object per kernel.

Run by `test_triton_compiled` in a process of its own, with TRITON_INTERPRET unset.
"""

import json
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench_kernels import tuning
from workbench_kernels.gpu import attention, elementwise, merging, scoring, units, writing

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


def build(kernel, capability, types, constants, **options):
    """Compile as a launch would: pointers and strides are multiples of 16, no contraction."""
    names = kernel.arg_names
    signature = {name: types.get(name, "i32") for name in names}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = [name for name in names if signature[name].startswith("*") or name in STRIDES]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False, **options})


STRIDES = {"q_row", "q_head", "k_head", "v_head", "q_token", "k_token", "v_token", "keys_head",
           "values_head", "logits_row", "vocab"}  # fmt: skip


def attend(capability, sizes, block, k_dim, v_dim, dtype, *, capped=False, windowed=False):
    types = dict.fromkeys("qkv", TYPES[dtype]) | {"part": "*fp32", "lse": "*fp32"}
    types |= dict.fromkeys(["table", "row_ids", "positions"], "*i32")
    types |= {"factor": "fp32", "cap": "fp32"}
    return build(
        attention.attend_kernel, capability, types,
        {"K_DIM": k_dim, "V_DIM": v_dim, "BLOCK_M": block.rows, "BLOCK_N": sizes.cells,
         "BLOCK_K": attention.padded(k_dim), "BLOCK_V": attention.padded(v_dim), "CAPPED": capped,
         "WINDOWED": windowed, "FIELDS": units.FIELDS, "UP": False},
        num_warps=block.warps, num_stages=block.stages,
    )  # fmt: skip


def merge(capability):
    types = dict.fromkeys(["part", "lse", "sinks"], "*fp32") | {"out": "*bf16"}
    types |= {"parts_at": "*i32", "parts": "*i32"}
    constants = {"DIM": 128, "BLOCK_D": 128, "BLOCK_P": merging.PARTS, "SINKS": True}
    return build(merging.merge_kernel, capability, types, constants, num_warps=2)


def rotate(capability):
    names = ["q", "k", "v", "cos", "sin", "out", "keys", "values", "q_norm", "k_norm"]
    types = dict.fromkeys(names, "*bf16") | {"slots": "*i64", "eps": "fp32"}
    constants = {"HEADS": 32, "KV_HEADS": 8, "K_DIM": 128, "V_DIM": 128, "ROTARY": 128,
                 "BLOCK_Q": 32, "BLOCK_H": 8, "BLOCK_R": 64, "BLOCK_K": 128,
                 "BLOCK_V": 128, "NORM": True}  # fmt: skip
    return build(writing.rotate_kernel, capability, types, constants, num_warps=4)


def write(capability):
    types = dict.fromkeys(["k", "v", "keys", "values"], "*bf16") | {"slots": "*i64"}
    constants = {"KV_HEADS": 8, "K_DIM": 128, "V_DIM": 80, "BLOCK_H": 8, "BLOCK_K": 128,
                 "BLOCK_V": 128}  # fmt: skip
    return build(writing.write_kernel, capability, types, constants, num_warps=4)


def norm(capability):
    types = dict.fromkeys(["x", "delta", "weight", "out"], "*bf16") | {"eps": "fp32"}
    constants = {"SIZE": 4096, "BLOCK": 4096, "ADD": True}
    return build(elementwise.norm_kernel, capability, types, constants, num_warps=8)


def gate(capability):
    constants = {"SIZE": 14336, "BLOCK": elementwise.GATE_BLOCK}
    types = {"x": "*bf16", "out": "*bf16"}
    return build(elementwise.gate_kernel, capability, types, constants, num_warps=4)


PARTS = {"logits": "*bf16", "tops": "*fp32", "sums": "*fp32", "bests": "*i32"}


def scan(capability):
    return build(scoring.scan_kernel, capability, PARTS, {"BLOCK": scoring.BLOCK}, num_warps=8)


def score(capability):
    types = {"labels": "*i64", "tokens": "*i64", "logprobs": "*fp32", "out": "*fp32"}
    constants = {"BLOCKS": 32, "BLOCK_L": 8}
    return build(scoring.score_kernel, capability, PARTS | types, constants, num_warps=1)


def report(name, family, compiled):
    ptx, layouts = compiled.asm["ptx"], compiled.asm["ttgir"]
    facts = {
        "name": name,
        "family": family,
        "target": re.search(r"\.target (\w+)", ptx).group(1),
        "shared": compiled.metadata.shared,
        "entry": ".entry" in ptx,
        "matrix": sorted(set(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", ptx))),
        "depth": sorted(set(re.findall(r"mma[^\n]*\.m\d+n\d+(k\d+)", ptx))),
        "versions": sorted(set(re.findall(r"versionMajor = (\d+)", layouts))),
        "in_flight": len(re.findall(r"cp\.async\.c[ag]", ptx)),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def main():
    for family, capability in (("sm_80", 80), ("sm_90", 90), ("sm_120", 120)):
        for dim in (128, 256):
            sizes = tuning.lookup(family, torch.bfloat16, dim)
            # All blocks must round alike: the smallest and the largest differ most.
            for block in {sizes.blocks[0], sizes.blocks[-1]} if dim == 128 else sizes.blocks[-1:]:
                compiled = attend(capability, sizes, block, dim, dim, torch.bfloat16)
                report(f"attend bf16 {dim} M{block.rows}", family, compiled)
    sizes = tuning.lookup("sm_90", torch.float16, 96)
    options = {"capped": True, "windowed": True}
    compiled = attend(90, sizes, sizes.blocks[0], 96, 80, torch.float16, **options)
    report("attend f16 96/80 capped windowed", "sm_90", compiled)
    sizes = tuning.lookup("sm_80", torch.float32, 64)
    report("attend f32 64", "sm_80", attend(80, sizes, sizes.blocks[0], 64, 64, torch.float32))
    for kernel in (merge, rotate, write, norm, gate, scan, score):
        report(kernel.__name__, "sm_120", kernel(120))


if __name__ == "__main__":
    main()
