"""How products with packed weights are cut."""

from __future__ import annotations

import itertools

from ferrule.kernels.packed_tiles import MAX_ROWS, ROWS_BEFORE_COPY, choose_packed_tiles
from ferrule.kernels.plane_layout import LAYOUTS, TILE


def test_cuts_are_ones_that_kernels_can_do():
    for rows, outs, ins in itertools.product(
        (1, 2, 8, 16, 17, MAX_ROWS), (1, 72, 4096, 128256), (32, 576, 14336)
    ):
        for layout in LAYOUTS.values():
            tiles = choose_packed_tiles(rows, outs, ins, layout, has_copy=False)
            assert tiles is not None
            assert tiles.block_n <= TILE
            assert tiles.splits == 1 or ins >= 1024 * tiles.splits
            assert tiles.num_stages > 0
            assert tiles.num_warps in (1, 2, 4, 8)


def test_many_rows_are_multiplied_densely():
    layout = LAYOUTS["Q4_K"]
    assert choose_packed_tiles(MAX_ROWS + 1, 4096, 4096, layout, has_copy=False) is None
    assert choose_packed_tiles(MAX_ROWS, 4096, 4096, layout, has_copy=False) is not None


def test_a_copy_takes_over_earlier():
    layout = LAYOUTS["Q4_K"]
    assert ROWS_BEFORE_COPY < MAX_ROWS
    assert choose_packed_tiles(ROWS_BEFORE_COPY, 4096, 4096, layout, has_copy=True) is not None
    assert choose_packed_tiles(ROWS_BEFORE_COPY + 1, 4096, 4096, layout, has_copy=True) is None
