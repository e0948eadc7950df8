"""Which products the kernel for a few rows computes, and in what pieces."""

from __future__ import annotations

import pytest

from ferrule.kernels.tiles import MAX_ROWS, choose_tiles

SHAPES = [(out, num_in) for out in (64, 4096, 28672, 128256) for num_in in (64, 4096, 14336)]


@pytest.mark.parametrize("rows", [1, 2, 8, 16, 17, 40, 64])
def test_chosen_tiles_are_such_as_the_tensor_cores_take(rows):
    for num_out, num_in in SHAPES:
        tiles = choose_tiles(rows, num_out, num_in)
        if tiles is None:
            continue
        for size in (tiles.block_n, tiles.block_k):
            assert size & (size - 1) == 0
        assert tiles.splits == 1 or rows > 1
        if rows > 1:
            # 227 KB a block on compute capability 9.0 (CUDA programming guide, table of
            # technical specifications), of which every stage holds a tile of both operands.
            assert min(tiles.block_n, tiles.block_k) >= 16
            columns = tiles.block_n + max(16, rows)
            assert tiles.num_stages * tiles.block_k * columns * 2 <= 227 * 1024


def test_a_large_matrix_is_for_the_vendor_only_above_some_rows():
    for num_out, num_in in SHAPES:
        assert choose_tiles(1, num_out, num_in) is not None
        assert choose_tiles(16, num_out, num_in) is not None
        assert choose_tiles(MAX_ROWS + 1, num_out, num_in) is None
        assert choose_tiles(4096, num_out, num_in) is None
    assert choose_tiles(MAX_ROWS, 128256, 4096) is not None
