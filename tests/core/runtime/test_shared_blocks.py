"""Which sequences of a step begin with the same blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime import shared_blocks
from ferrule.runtime.shared_blocks import find_shared
from ferrule.runtime.slots import Slots

BLOCK = 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Groups of three and prefixes of two blocks pay already."""
    monkeypatch.setattr(shared_blocks, "_LEAST_MEMBERS", 3)
    monkeypatch.setattr(shared_blocks, "_LEAST_TOKENS", 2 * BLOCK)


def slots_with(*tables):
    slots = Slots(len(tables), max_length=200, block_size=BLOCK, padding_block=999)
    for slot, blocks in enumerate(tables):
        slots.admit(Admission(slot=slot, tokens=[1], num_prompt=1, sampling=SamplingParams()))
        slots.grow(Chunk(slot=slot, start=0, num_tokens=1, new_blocks=blocks))
    return slots


def found(tables, lengths, chosen=None):
    chosen = list(range(len(tables))) if chosen is None else chosen
    shared = find_shared(slots_with(*tables), chosen, lengths)
    if shared is None:
        return None
    assert shared.starts.dtype == np.int64
    return shared.slot, shared.num_tokens, shared.starts.tolist()


ALIKE = [[1, 2, 3, 10], [1, 2, 3, 11], [1, 2, 3, 12]]


def test_members_share_the_blocks_in_which_all_of_them_are_alike():
    assert found(ALIKE, [13, 16, 14]) == (0, 12, [12, 12, 12])
    tables = [[1, 2, 3, 10], [1, 2, 4, 11], [1, 2, 3, 12]]
    assert found(tables, [13, 16, 14]) == (0, 8, [8, 8, 8])


def test_others_have_no_part_in_it():
    tables = [[50, 51, 52, 53], *ALIKE, [60, 2, 3, 13]]
    assert found(tables, [16, 13, 16, 14, 15]) == (1, 12, [0, 12, 12, 12, 0])


def test_rows_are_in_the_order_of_the_batch():
    tables = [[50, 51, 52, 53], *ALIKE]
    slot, num_tokens, starts = found(tables, [14, 16, 16, 13], chosen=[3, 0, 1, 2])
    assert (num_tokens, starts) == (12, [12, 0, 12, 12])
    assert slot in (1, 2, 3)


def test_the_new_token_is_never_in_a_shared_block():
    """It would be written while others read; blocks behind the shortest's are not its own."""
    assert found(ALIKE, [13, 16, 13])[1] == 12
    assert found(ALIKE, [13, 16, 12])[1] == 8
    assert found(ALIKE, [13, 16, 9])[1] == 8
    assert found(ALIKE, [13, 16, 8]) is None


def test_what_is_too_small_does_not_pay():
    assert found(ALIKE[:2], [13, 13]) is None, "too few members"
    tables = [*ALIKE[:2], [50, 2, 3, 4]]
    assert found(tables, [13, 13, 13]) is None, "too few of them begin alike"
    tables = [[1, 2, 3], [1, 4, 5], [1, 6, 7]]
    assert found(tables, [12, 12, 12]) is None, "too few tokens"
    assert found(ALIKE, [], chosen=[]) is None


def test_padding_behind_short_tables_is_nothing_to_share():
    tables = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
    assert found(tables, [12, 12, 12])[1] == 8


def test_the_largest_group_is_taken():
    others = [[21, 22, 23, 30 + i] for i in range(4)]
    assert found([*ALIKE, *others], [16] * 7) == (3, 12, [0] * 3 + [12] * 4)


TABLES = st.lists(
    st.tuples(st.lists(st.integers(1, 2), min_size=2, max_size=4), st.integers(1, 4 * BLOCK)),
    min_size=1,
    max_size=8,
)


@given(rows=TABLES)
def test_every_shared_token_is_at_the_same_place_for_all_members(rows):
    tables = [[first, *(10 * i + b for i, b in enumerate(rest, 1))] for (first, *rest), _ in rows]
    lengths = [
        min(length, BLOCK * len(table)) for (_, length), table in zip(rows, tables, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_blocks, "_LEAST_MEMBERS", 2)
        patch.setattr(shared_blocks, "_LEAST_TOKENS", BLOCK)
        shared = found(tables, lengths)
    if shared is None:
        return
    slot, num_tokens, starts = shared
    members = [row for row, start in enumerate(starts) if start]
    assert slot in members
    assert len(members) >= 2
    assert num_tokens % BLOCK == 0
    assert num_tokens >= BLOCK
    for row in members:
        assert starts[row] == num_tokens < lengths[row]
        assert tables[row][: num_tokens // BLOCK] == tables[slot][: num_tokens // BLOCK]
