"""Limits of a step: what was asked for, or what suits the device."""

from __future__ import annotations

import pytest
import torch

from ferrule.batch_limits import BatchLimits, batch_limits
from ferrule.engine.options import EngineOptions

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("asked", "device", "limits"),
    [
        ({}, CPU, (32, 512)),
        ({"max_batch_size": 4}, CPU, (4, 512)),
        ({"max_batch_input_tokens": 64}, CPU, (32, 64)),
        ({"max_batch_size": 7, "max_batch_input_tokens": 9}, GPU, (7, 9)),
        # A step must hold one token of each sequence.
        ({"max_batch_size": 9000}, CPU, (9000, 9000)),
        ({"max_batch_size": 9000}, GPU, (9000, 9000)),
    ],
)
def test_limits_are_those_asked_for_or_suit_the_device(asked, device, limits):
    found = batch_limits(EngineOptions(model="m", **asked), device)
    assert found == BatchLimits(num_sequences=limits[0], num_tokens=limits[1])


def test_a_gpu_runs_more_at_once_than_a_cpu():
    cpu, gpu = (batch_limits(EngineOptions(model="m"), device) for device in (CPU, GPU))
    assert gpu.num_sequences > cpu.num_sequences
    assert gpu.num_tokens > cpu.num_tokens
