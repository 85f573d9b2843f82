"""Attention on a GPU: GB/s against a copy's, and others' attention to the same context."""

from __future__ import annotations

import argparse

import torch

from workbench.bench import result
from workbench.errors import WorkbenchError
from workbench_kernels import bench_gpu

DEVICE = "cuda"
DESCRIPTION = (
    "Questions of 1, 4, 16 and 64 tokens over 2.6k, 19k and 131k cells, alone and 16 on branches "
    "of one context, each compared with float64 first. Beside them torch's SDPA and "
    "flex_attention, and FlashAttention where it is installed. Needs an NVIDIA GPU."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--device", choices=[DEVICE], default=DEVICE, help="there is one kind")
    bench_gpu.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: str) -> int:
    """Measure, print the table, write the JSON."""
    if not torch.cuda.is_available():
        msg = "torch finds no CUDA device, and this measures one; expected an NVIDIA GPU"
        raise WorkbenchError(msg)
    header = result.header("kernels", command, DEVICE)
    for found in bench_gpu.run(options.dims):  # what there is stays if it is interrupted
        path = result.write(header | found, "kernels", options.out, DEVICE)
    print(f"\nwritten to {path}")
    return 0
