"""What a device keeps of each slot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ferrule.layers.attention import AttentionSpec
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.kv_cache import KVCache

CPU = torch.device("cpu")
SPEC = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=2, window=None, scale=1.0)


@pytest.fixture
def cache():
    return KVCache([SPEC], num_blocks=30, block_size=4, dtype=torch.float32, device=CPU)


@pytest.fixture
def slots(cache):
    return DeviceSlots(3, max_length=10, cache=cache, device=CPU)


def ids(*values):
    return torch.tensor(values)


def test_there_is_a_slot_more_for_what_pads_and_room_for_the_greatest_length(slots, cache):
    assert slots.padding_slot == 3
    assert slots.last_tokens.tolist() == slots.lengths.tolist() == [0] * 4
    assert slots.tables.shape == (4, 3), "ten tokens lie in three blocks of four"
    assert slots.tables.unique().tolist() == [cache.scrap_block], "nothing points to a sequence"


def test_blocks_reach_the_device_when_they_are_flushed(slots, cache):
    scrap = cache.scrap_block
    slots.grow(2, 0, np.array([7, 5]))
    slots.grow(0, 1, np.array([9]))
    slots.grow(1, 0, np.array([], dtype=np.int64))
    assert slots.tables.unique().tolist() == [scrap]
    slots.flush()
    expected = [[scrap, 9, scrap], [scrap] * 3, [7, 5, scrap], [scrap] * 3]
    assert slots.tables.tolist() == expected
    assert slots.tables.dtype is torch.int32
    slots.grow(2, 2, np.array([1]))
    slots.flush()
    expected[2][2] = 1
    assert slots.tables.tolist() == expected
    slots.tables.fill_(4)
    slots.flush()
    assert slots.tables.unique().tolist() == [4], "what was sent is not sent again"


def test_a_slot_that_is_taken_again_has_its_new_blocks(slots):
    slots.grow(1, 0, np.array([7, 5, 3]))
    slots.flush()
    slots.grow(1, 0, np.array([2, 8]))
    slots.flush()
    assert slots.tables[1, :2].tolist() == [2, 8]


def test_lengths_and_tokens_go_to_their_slots(slots):
    slots.place(ids(2, 0), ids(9, 4), ids(70, 80))
    assert slots.lengths.tolist() == [4, 0, 9, 0]
    assert slots.last_tokens.tolist() == [80, 0, 70, 0]
    slots.place(ids(0, 1), ids(5, 3))
    assert slots.lengths.tolist() == [5, 3, 9, 0]
    assert slots.last_tokens.tolist() == [80, 0, 70, 0], "the host does not know them"


def test_rows_that_pad_may_all_name_the_padding_slot(slots):
    slots.place(ids(1, 3, 3), ids(6, 0, 0))
    assert slots.lengths.tolist() == [0, 6, 0, 0]
