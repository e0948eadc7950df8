"""Which graph a batch takes; tests/gpu/test_decode_graphs.py runs them."""

from __future__ import annotations

import pytest

from ferrule.runtime.decode_graphs import FIRST_SIZES, graph_size


@pytest.mark.parametrize(
    ("num_rows", "size"),
    [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (16, 16), (17, 24), (33, 40), (64, 64), (65, 80)],
)
def test_a_batch_takes_the_next_larger_graph(num_rows, size):
    assert graph_size(num_rows, 256) == size


def test_no_graph_is_larger_than_the_batch_may_be():
    assert graph_size(9, 10) == 10
    assert graph_size(250, 250) == 250


def test_there_are_few_graphs_and_the_first_ones_are_among_them():
    sizes = {graph_size(num_rows, 256) for num_rows in range(1, 257)}
    assert len(sizes) <= 24
    assert set(FIRST_SIZES) <= sizes
