"""Devices and types that a caller may name, and what stands for "auto"."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from workbench.engine.placement import auto_device, auto_dtype
from workbench.errors import ModelError


def test_auto_dtype_is_one_the_cpu_has():
    assert auto_dtype("auto") in (torch.float32, torch.bfloat16)
    assert auto_dtype("bfloat16") == auto_dtype("auto", "cuda:0") == torch.bfloat16
    with pytest.raises(ModelError, match="expected 'auto'"):
        auto_dtype("int3")


def test_a_torch_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert auto_dtype("auto") == torch.float32


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "gpu", "mps"])
def test_devices_without_kernels_are_named(device):
    with pytest.raises(ModelError, match=f"device '{device}' has no kernels; expected 'auto'"):
        auto_device(device)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="device 'cuda:99': torch finds .* expected 'auto'"):
        auto_device("cuda:99")


def test_a_device_that_is_there_is_named_with_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert auto_device("cuda") == "cuda:0"
    assert auto_device("cuda:1") == "cuda:1"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs triton"):
        auto_device("cuda")
