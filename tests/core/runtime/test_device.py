"""Devices and number types by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ferrule.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import OptionError
from ferrule.runtime.device import resolve_device, resolve_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def stored(**bytes_by_format):
    tensors = {
        format: TensorInfo(
            name=format, shape=(1,), format=format, file=Path("x"), offset=0, nbytes=size
        )
        for format, size in bytes_by_format.items()
    }
    return Checkpoint(location="here", kind="safetensors", config={}, tensors=tensors)


@pytest.mark.parametrize(
    ("checkpoint", "device", "expected"),
    [
        (stored(BF16=100, F32=2), CPU, torch.bfloat16),
        (stored(F16=100, F32=2), GPU, torch.float16),
        (stored(F16=100), CPU, torch.float32),
        (stored(F32=100), GPU, torch.float32),
        (stored(Q4_K=100, F32=2), GPU, torch.bfloat16),
    ],
)
def test_auto_follows_what_the_file_holds_most_of(checkpoint, device, expected):
    assert resolve_dtype("auto", checkpoint, device) is expected


def test_a_named_type_is_taken_and_an_unknown_one_refused():
    assert resolve_dtype("float32", stored(BF16=1), CPU) is torch.float32
    with pytest.raises(OptionError, match="'int8'; expected auto, bfloat16"):
        resolve_dtype("int8", stored(BF16=1), CPU)


def test_devices_that_are_not_there_are_refused_with_what_is():
    assert resolve_device("cpu") == CPU
    with pytest.raises(OptionError, match="expected auto, cpu, gpu or gpu:N"):
        resolve_device("tpu")
    with pytest.raises(OptionError, match="asks for GPU 99"):
        resolve_device("gpu:99")
