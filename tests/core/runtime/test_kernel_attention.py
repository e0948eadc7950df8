"""Which layers the kernels compute; test_kernel_runner.py computes some."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers.attention import AttentionSpec
from ferrule.runtime import kernel_attention
from ferrule.runtime.kernel_attention import fits_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def spec(num_heads, num_kv_heads):
    return AttentionSpec(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=64, window=None, scale=0.1
    )


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    monkeypatch.setattr(kernel_attention, "has_triton", lambda: True)


def test_kernels_are_for_gpus():
    assert not fits_kernels([spec(4, 2)], CPU)
    assert fits_kernels([spec(4, 2)], GPU)


def test_without_triton_there_are_none(monkeypatch):
    monkeypatch.setattr(kernel_attention, "has_triton", lambda: False)
    assert not fits_kernels([spec(4, 2)], GPU)


def test_a_layer_whose_groups_are_larger_than_a_tile_is_in_the_way_of_all():
    assert fits_kernels([spec(32, 2), spec(4, 4)], GPU)
    assert not fits_kernels([spec(4, 2), spec(34, 2)], GPU)


def test_the_largest_group_is_that_of_the_decode_kernel():
    """Written twice, for Triton may be missing where this module is imported."""
    pytest.importorskip("triton", reason="triton exists for Linux only")
    from ferrule.kernels import paged_decode

    assert paged_decode._ROWS.value == kernel_attention.MAX_GROUP
