from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.engine.block_pool import BlockPool


def cached(pool, *keys):
    """Blocks that were written under these keys and given back."""
    blocks = pool.allocate(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.remember(block, key)
    pool.release(blocks)
    return blocks


def test_allocated_blocks_are_distinct_and_all_can_be_had():
    pool = BlockPool(4)

    assert sorted(pool.allocate(4)) == [0, 1, 2, 3]
    assert pool.num_free == 0


def test_an_allocation_that_does_not_fit_takes_nothing():
    pool = BlockPool(4)

    assert pool.allocate(5) is None
    assert pool.num_free == 4


def test_a_cached_block_stays_findable_after_its_last_user():
    pool = BlockPool(4)
    blocks = cached(pool, b"a", b"b")

    assert pool.find([b"a", b"b", b"c"]) == blocks
    assert pool.num_free == 4


def test_a_prefix_ends_where_a_block_is_missing():
    pool = BlockPool(4)
    cached(pool, b"a", b"c")

    assert len(pool.find([b"a", b"b", b"c"])) == 1


def test_claimed_blocks_are_not_given_to_others():
    pool = BlockPool(3)
    blocks = cached(pool, b"a", b"b")
    pool.claim(blocks)

    assert pool.num_free == 1
    assert pool.allocate(2) is None
    assert not set(pool.allocate(1)) & set(blocks)


def test_a_shared_block_is_free_only_after_its_last_user():
    pool = BlockPool(1)
    blocks = cached(pool, b"a")
    pool.claim(blocks)
    pool.claim(blocks)

    pool.release(blocks)
    assert pool.num_free == 0
    pool.release(blocks)
    assert pool.num_free == 1


def test_blank_blocks_go_before_cached_ones():
    pool = BlockPool(3)
    cached(pool, b"a")

    pool.allocate(2)

    assert pool.find([b"a"])


def test_a_prefix_is_evicted_from_its_end():
    pool = BlockPool(3)
    blocks = cached(pool, b"a", b"b", b"c")

    pool.allocate(1)
    assert pool.find([b"a", b"b", b"c"]) == blocks[:2]
    pool.allocate(1)
    assert pool.find([b"a", b"b", b"c"]) == blocks[:1]


def test_the_prefix_used_longest_ago_is_evicted_first():
    pool = BlockPool(4)
    old = cached(pool, b"a", b"b")
    cached(pool, b"c", b"d")
    pool.claim(old)
    pool.release(old)

    pool.allocate(2)

    assert pool.find([b"a", b"b"]) == old
    assert pool.find([b"c"]) == []


def test_an_evicted_block_can_be_cached_under_another_key():
    pool = BlockPool(1)
    cached(pool, b"a")
    cached(pool, b"b")

    assert pool.find([b"a"]) == []
    assert pool.find([b"b"]) == [0]


def test_the_first_of_two_blocks_with_equal_content_stays_the_one_to_find():
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.remember(first, b"a")
    pool.remember(second, b"a")
    pool.release([second])

    assert pool.find([b"a"]) == [first]
    assert pool.allocate(1) == [second]
    assert pool.find([b"a"]) == [first]


def test_a_block_released_twice_is_noticed():
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.release(blocks)

    with pytest.raises(AssertionError, match="twice"):
        pool.release(blocks)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=60))
def test_users_and_free_blocks_add_up(actions):
    pool, held = BlockPool(8), []
    for action, number in actions:
        keys = [bytes([key]) for key in range(number)]
        if action == 0 and (blocks := pool.allocate(number)) is not None:
            held.append(blocks)
        elif action == 1 and held:
            pool.release(held.pop(number % len(held)))
        elif action == 2 and held:
            for block, key in zip(held[-1], keys, strict=False):
                pool.remember(block, key)
        elif action == 3:
            found = pool.find(keys)
            assert pool.num_idle(found) == sum(not any(b in h for h in held) for b in found)
            pool.claim(found)
            held.append(found)
        assert pool.num_free == 8 - len({block for blocks in held for block in blocks})
