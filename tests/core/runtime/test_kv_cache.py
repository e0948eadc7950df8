"""The cache's tensors."""

from __future__ import annotations

import psutil
import pytest
import torch

from ferrule.layers import AttentionSpec
from ferrule.runtime.kv_cache import KVCache, block_bytes

CPU = torch.device("cpu")


def spec(num_kv_heads, head_dim):
    return AttentionSpec(
        num_heads=8, num_kv_heads=num_kv_heads, head_dim=head_dim, window=None, scale=1.0
    )


# Layers need not be alike.
SPECS = [spec(2, 16), spec(8, 4), spec(1, 24)]


def make(dtype=torch.float32, **changes):
    settings = {"num_blocks": 5, "block_size": 4, "dtype": dtype, "device": CPU} | changes
    return KVCache(SPECS, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_layer_has_the_shape_that_its_attention_needs(dtype):
    cache = make(dtype)
    assert (cache.num_blocks, cache.block_size) == (5, 4)
    shapes = [tuple(layer.keys.shape) for layer in cache.layers]
    assert shapes == [(7, 4, 2, 16), (7, 4, 8, 4), (7, 4, 1, 24)]
    for layer in cache.layers:
        assert layer.values.shape == layer.keys.shape
        assert layer.keys.dtype is layer.values.dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_never_written_is_zero(dtype):
    for layer in make(dtype).layers:
        assert torch.equal(layer.keys, torch.zeros_like(layer.keys))
        assert torch.equal(layer.values, torch.zeros_like(layer.values))


def test_no_two_tensors_share_memory():
    cache = make()
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    for number, tensor in enumerate(tensors, 1):
        tensor.fill_(number)
    assert [tensor.unique().tolist() for tensor in tensors] == [[n] for n in range(1, 7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [1, 16])
def test_a_block_has_its_share_of_the_tensors_bytes(dtype, block_size):
    layers = make(dtype, block_size=block_size).layers
    total = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert block_bytes(SPECS, block_size=block_size, dtype=dtype) * (5 + 2) == total


def test_blocks_that_nobody_writes_cost_the_host_nothing():
    process = psutil.Process()
    before = process.memory_info().rss
    cache = make(num_blocks=200_000)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert size > 500 * 1024**2
    assert process.memory_info().rss - before < size / 20


def test_cleared_blocks_are_zero_and_the_others_stay():
    cache = make()
    for layer in cache.layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(7)
    cache.clear([1, 4])
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            assert tensor[[1, 4]].count_nonzero() == 0
            assert not (tensor[[0, 2, 3]] == 0).any()


def test_the_padding_block_is_behind_those_that_can_be_used():
    cache = make()
    assert cache.padding_block == cache.num_blocks
    assert cache.layers[0].keys[cache.padding_block].count_nonzero() == 0
