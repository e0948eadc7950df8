from ferrule.tokenizer.merges import rebuild_merges


def test_every_split_into_two_known_parts_is_a_merge():
    assert rebuild_merges(["abc"], {"a", "ab", "bc", "c"}) == [("ab", "c"), ("a", "bc")]


def test_merges_keep_the_order_of_the_pieces():
    merges = rebuild_merges(["bc", "ab"], {"a", "b", "c"})
    assert merges == [("b", "c"), ("a", "b")]


def test_a_piece_without_known_parts_cannot_be_reached():
    assert rebuild_merges(["xy"], {"x", "xy"}) == []
