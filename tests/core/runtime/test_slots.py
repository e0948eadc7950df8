"""What is kept of each running sequence."""

from __future__ import annotations

import numpy as np
import pytest

from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime.slots import Slots


@pytest.fixture
def slots():
    return Slots(3, max_length=10, block_size=4, padding_block=99)


def admit(slots, slot, tokens):
    slots.admit(
        Admission(slot=slot, tokens=tokens, num_prompt=len(tokens), sampling=SamplingParams())
    )


def grow(slots, slot, blocks):
    slots.grow(Chunk(slot=slot, start=0, num_tokens=1, new_blocks=blocks))


def held(slots, slot):
    return slots.tokens[slot, : slots.num_tokens[slot]].tolist()


def table(slots, slot):
    return slots.block_tables[slot, : slots.num_blocks[slot]].tolist()


def test_a_sequence_keeps_its_tokens_and_those_that_follow(slots):
    admit(slots, 1, [5, 6, 7])
    slots.append(1, 8)
    slots.append(1, 9)
    assert held(slots, 1) == [5, 6, 7, 8, 9]
    assert held(slots, 0) == held(slots, 2) == []


def test_blocks_are_added_behind_those_that_are_there(slots):
    admit(slots, 0, [1] * 9)
    admit(slots, 2, [1])
    grow(slots, 0, [7, 3])
    grow(slots, 2, (1,))
    grow(slots, 0, [])
    grow(slots, 0, [5])
    assert table(slots, 0) == [7, 3, 5]
    assert table(slots, 2) == [1]


def test_a_slot_that_is_taken_again_begins_anew(slots):
    admit(slots, 0, [1] * 9)
    grow(slots, 0, [7, 3, 5])
    slots.append(0, 2)
    admit(slots, 0, [4, 4])
    assert held(slots, 0) == [4, 4]
    assert table(slots, 0) == []
    grow(slots, 0, [6])
    slots.append(0, 9)
    assert held(slots, 0) == [4, 4, 9]
    assert table(slots, 0) == [6]


def test_a_sequence_of_the_greatest_length_has_room(slots):
    """The token that ends it is stored too, and the last block may be part empty."""
    admit(slots, 0, list(range(9)))
    grow(slots, 0, [2, 1, 0])
    slots.append(0, 9)
    assert held(slots, 0) == list(range(10))
    assert slots.cache_rows(0, np.array([9])).tolist() == [0 * 4 + 1]


def test_each_position_lies_in_its_block(slots):
    admit(slots, 1, [1] * 10)
    grow(slots, 1, [9, 0, 4])
    rows = slots.cache_rows(1, np.arange(2, 10)).tolist()
    assert rows[:2] == [9 * 4 + 2, 9 * 4 + 3]
    assert rows[2:6] == [0, 1, 2, 3]
    assert rows[6:] == [4 * 4, 4 * 4 + 1]


def test_blocks_from_the_prefix_cache_are_not_among_those_to_be_cleared():
    slots = Slots(1, max_length=64, block_size=4, padding_block=99)
    slots.admit(Admission(slot=0, tokens=[0] * 20, num_prompt=20, sampling=SamplingParams()))
    hit = Chunk(slot=0, start=8, num_tokens=12, new_blocks=[7, 3, 5, 1, 2])
    assert list(slots.grow(hit)) == [5, 1, 2]
    assert list(slots.grow(Chunk(slot=0, start=20, num_tokens=1, new_blocks=[6]))) == [6]
    assert list(slots.grow(Chunk(slot=0, start=21, num_tokens=1))) == []
    assert slots.block_tables[0, :7].tolist() == [7, 3, 5, 1, 2, 6, 99]


def test_a_slot_that_is_taken_again_points_to_padding_alone():
    slots = Slots(1, max_length=16, block_size=4, padding_block=99)
    admission = Admission(slot=0, tokens=[0] * 8, num_prompt=8, sampling=SamplingParams())
    slots.admit(admission)
    slots.grow(Chunk(slot=0, start=0, num_tokens=8, new_blocks=[1, 2]))
    slots.admit(admission)
    assert set(slots.block_tables[0].tolist()) == {99}


def test_cache_rows_of_one_position_in_each_of_several_sequences():
    slots = Slots(2, max_length=16, block_size=4, padding_block=99)
    for slot, blocks in enumerate([[7, 3], [5, 1]]):
        admission = Admission(slot=slot, tokens=[0] * 8, num_prompt=8, sampling=SamplingParams())
        slots.admit(admission)
        slots.grow(Chunk(slot=slot, start=0, num_tokens=8, new_blocks=blocks))
    assert slots.cache_rows([1, 0], [6, 3]).tolist() == [1 * 4 + 2, 7 * 4 + 3]
