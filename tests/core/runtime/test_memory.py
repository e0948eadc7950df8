"""Sizing the KV cache, and what people are told when something does not fit."""

from __future__ import annotations

import pytest
import torch

from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.layers import AttentionSpec
from ferrule.runtime.kv_cache import KVCache, block_bytes
from ferrule.runtime.memory import (
    free_memory,
    gib,
    kv_budget,
    longest_context,
    num_kv_blocks,
    total_memory,
)

SPECS = [AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, window=None, scale=1.0)] * 3
CPU = torch.device("cpu")
LIMITS = {"block_size": 16, "dtype": torch.bfloat16}


def test_a_block_has_the_bytes_that_its_tensors_have():
    cache = KVCache(SPECS, num_blocks=5, block_size=16, dtype=torch.bfloat16, device=CPU)
    total = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert block_bytes(SPECS, **LIMITS) * (5 + 2) == total
    assert all(not layer.keys.any() for layer in cache.layers)


def test_blocks_that_no_batch_could_use_are_not_allocated():
    blocks = num_kv_blocks(SPECS, **LIMITS, max_length=100, max_batch_size=3, budget=1 << 40)
    assert blocks == 7 * 3


def test_a_context_that_does_not_fit_says_what_would():
    budget = 10 * block_bytes(SPECS, **LIMITS) + 5
    with pytest.raises(OutOfMemoryError, match="A context of 1000 tokens") as caught:
        num_kv_blocks(SPECS, **LIMITS, max_length=1000, max_batch_size=1, budget=budget)
    assert "--max-length 160 would fit" in caught.value.hint
    assert longest_context(SPECS, **LIMITS, context_length=1000, budget=budget) == 160
    assert longest_context(SPECS, **LIMITS, context_length=100, budget=budget) == 100


def test_a_context_shorter_than_a_block_stays_as_short_as_it_is():
    assert longest_context(SPECS, **LIMITS, context_length=10, budget=1 << 40) == 10


def test_no_memory_at_all_is_an_error_with_a_way_out():
    with pytest.raises(OutOfMemoryError, match="0 MiB can be used") as caught:
        num_kv_blocks(SPECS, **LIMITS, max_length=16, max_batch_size=1, budget=-5)
    assert "--device-memory-utilization" in caught.value.hint


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_of_memory_outside_its_range_is_refused(share):
    with pytest.raises(OptionError, match="more than 0 and at most 1"):
        kv_budget(share, CPU, reserve=0)


def test_free_memory_is_below_the_total_and_shrinks_the_budget_by_the_reserve():
    assert 0 < free_memory(CPU) <= total_memory(CPU)
    assert kv_budget(0.5, CPU, reserve=1 << 50) < 0
    assert kv_budget(0.5, CPU, reserve=0, not_loaded=1 << 50) < 0


def test_bytes_are_shown_in_units_that_people_read():
    assert gib(3 * 1024**2) == "3 MiB"
    assert gib(int(2.5 * 1024**3)) == "2.50 GiB"
