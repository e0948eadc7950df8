from __future__ import annotations

from itertools import product

from ferrule.engine.block_key import block_key, root_key


def test_equal_content_has_an_equal_key():
    assert block_key(root_key("a", "b"), [1, 2]) == block_key(root_key("a", "b"), (1, 2))


def test_a_key_depends_on_the_blocks_before_it():
    first, other = block_key(root_key("", ""), [1, 2]), block_key(root_key("", ""), [2, 1])

    assert first != other
    assert block_key(first, [3, 4]) != block_key(other, [3, 4])


def test_adapter_and_salt_each_part_the_roots():
    names = ["", "a", "b", "ab", "é"]

    assert len({root_key(lora, salt) for lora, salt in product(names, names)}) == 25


def test_keys_are_wide_enough_that_collisions_cannot_be_made():
    assert len(block_key(root_key("", ""), [2**31 - 1])) * 8 >= 256
