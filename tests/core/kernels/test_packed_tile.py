"""How products with packed matrices are cut; what a tile computes is in test_packed.py."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton exists for Linux only")

from ferrule.kernels import packed_tile
from ferrule.kernels.packed_tile import cut
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import LAYOUTS


def test_rows_and_columns_are_padded_to_whole_tiles():
    made = cut(torch.zeros(3, 4000), LAYOUTS["Q4_K"], 70, PackedTiles(32, 1, 2, 2, 1))
    assert (made.num_tiles, made.num_units, made.block_m) == (3, 16, 8)
    assert not made.constants["EVEN"]
    assert made.partials.shape == (3 * 2, 32 * 8)
    assert made.precision == "ieee"


def test_splits_share_whole_steps_or_take_smaller_ones():
    x = torch.zeros(1, 4096)  # 16 units of Q4_K
    assert cut(x, LAYOUTS["Q4_K"], 64, PackedTiles(64, 2, 4, 2, 1)).constants["UNITS"] == 2
    assert cut(x, LAYOUTS["Q4_K"], 64, PackedTiles(64, 4, 8, 2, 1)).constants["UNITS"] == 1


def test_nothing_is_kept_for_splits_where_there_are_none():
    assert (
        cut(torch.zeros(1, 256), LAYOUTS["Q8_0"], 64, PackedTiles(64, 1, 1, 2, 1)).partials is None
    )


def test_steps_on_their_way_fit_what_the_device_has_on_chip(monkeypatch):
    x, tiles = torch.zeros(16, 512).half(), PackedTiles(64, 1, 1, 4, 5)
    step = LAYOUTS["Q4_K"].num_bytes(64, 256) + 16 * 256 * 2
    for room, stages in ((5 * step, 5), (4 * step - 1, 3), (step // 2, 1)):
        monkeypatch.setattr(packed_tile, "shared_memory", lambda device, room=room: room)
        assert cut(x, LAYOUTS["Q4_K"], 64, tiles).constants["STAGES"] == stages
