from __future__ import annotations

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.block_tables import BlockTables
from ferrule.engine.messages import Request
from ferrule.engine.sequence import Sequence
from ferrule.plan import SamplingParams


def tables(num_blocks=8, *, enable_prefix_caching=True):
    pool = BlockPool(num_blocks)
    return pool, BlockTables(pool, block_size=4, enable_prefix_caching=enable_prefix_caching)


def sequence(num_tokens, **sampling):
    asked = Request(id="a", tokens=list(range(num_tokens)), sampling=SamplingParams(**sampling))
    return Sequence.from_request(asked, arrival=0, final_length=100)


def computed(tables, num_tokens):
    """A sequence that was admitted and has its whole prompt in the cache."""
    one = sequence(num_tokens)
    assert tables.claim(one, num_kept_free=0)
    one.num_computed = num_tokens
    tables.remember_full_blocks(one)
    return one


def test_a_sequence_gets_blocks_for_all_its_tokens():
    _, all = tables()
    one = sequence(9)

    assert all.claim(one, num_kept_free=0)
    assert len(set(one.blocks)) == 3
    assert all.used_share == 3 / 8


def test_a_claim_that_leaves_too_few_blocks_takes_none():
    pool, all = tables()
    one = sequence(9)

    assert not all.claim(one, num_kept_free=6)
    assert (one.blocks, pool.num_free) == ([], 8)
    assert all.claim(one, num_kept_free=5)


def test_a_found_prefix_counts_as_computed_and_is_shared():
    pool, all = tables()
    first, second = computed(all, 9), sequence(9)

    assert all.claim(second, num_kept_free=0)
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] != first.blocks[2]
    assert (second.num_computed, second.num_cached) == (8, 8)
    assert pool.num_free == 4
    assert (all.num_prefix_queries, all.num_prefix_hits) == (18, 8)


def test_idle_blocks_that_are_found_count_as_taken():
    pool, all = tables(num_blocks=3)
    all.release(computed(all, 9))
    second = sequence(9)

    # Two of three free blocks hold the prefix, so only one is left for the rest.
    assert not all.claim(second, num_kept_free=1)
    assert all.claim(second, num_kept_free=0)
    assert pool.num_free == 0


def test_the_block_of_the_last_token_is_never_found():
    _, all = tables()
    computed(all, 8)
    second = sequence(8)
    all.claim(second, num_kept_free=0)

    assert second.num_computed == 4


def test_a_sequence_that_wants_prompt_logprobs_finds_nothing_but_leaves_its_blocks():
    _, all = tables()
    computed(all, 9)
    asking = sequence(9, prompt_logprobs=0)
    all.claim(asking, num_kept_free=0)

    assert asking.num_computed == 0
    assert all.num_prefix_queries == 9


def test_a_readmission_leaves_the_count_of_cached_tokens_alone():
    _, all = tables()
    one = computed(all, 9)
    one.num_admissions = 1
    all.release(one)
    all.claim(one, num_kept_free=0)

    assert (one.num_computed, one.num_cached) == (8, 0)
    assert all.num_prefix_queries == 9


def test_nothing_is_found_with_caching_off():
    _, all = tables(enable_prefix_caching=False)
    computed(all, 9)
    second = sequence(9)
    all.claim(second, num_kept_free=0)

    assert second.num_computed == 0


def test_blocks_are_found_as_far_as_their_tokens_are_scheduled():
    _, all = tables()
    first, second = sequence(12), sequence(12)
    all.claim(first, num_kept_free=0)
    first.num_computed = 7
    all.remember_full_blocks(first)

    all.claim(second, num_kept_free=0)
    assert second.num_computed == 4


def test_a_block_with_a_token_that_is_not_known_yet_is_not_found():
    pool, all = tables()
    one = sequence(7)
    all.claim(one, num_kept_free=0)
    one.num_computed, one.num_tokens = 8, 9
    all.remember_full_blocks(one)
    assert one.num_remembered == 1

    one.tokens.append(7)
    all.release(one)
    assert len(pool.find(sequence(8).block_keys(2, 4))) == 2


def test_the_full_blocks_of_a_sequence_that_grows_are_found():
    pool, all = tables()
    one = sequence(8)
    all.claim(one, num_kept_free=0)
    one.num_computed = 8
    all.grow(one)

    assert pool.find(one.block_keys(2, 4)) == one.blocks[:2]


def test_a_sequence_grows_by_a_block_until_none_is_free():
    _, all = tables(num_blocks=2)
    one = sequence(4)
    all.claim(one, num_kept_free=0)

    (added,) = all.grow(one)
    assert one.blocks[1] == added
    assert all.grow(one) is None


def test_released_blocks_are_all_free():
    pool, all = tables()
    one = computed(all, 9)

    all.release(one)

    assert pool.num_free == 8
    assert (one.blocks, one.num_computed, one.num_remembered) == ([], 0, 0)
