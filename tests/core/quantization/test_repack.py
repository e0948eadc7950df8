"""Rows of blocks written into planes (what planes mean: tests/core/kernels/test_dequantize.py)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.repack import empty_planes, write_rows

random_blocks = runpy.run_path(str(Path(__file__).parents[2] / "data" / "gguf_blocks.py"))[
    "random_blocks"
]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", LAYOUTS)
def test_planes_take_the_memory_that_the_layout_tells(name):
    planes = empty_planes(LAYOUTS[name], 130, 512, CPU)
    taken = sum(plane.numel() * plane.element_size() for plane in planes)
    assert taken == LAYOUTS[name].num_bytes(130, 512)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_in_pieces_are_rows_at_once(name):
    layout, data = LAYOUTS[name], random_blocks(name, 150, 512)
    whole, pieces = (empty_planes(layout, 200, 512, CPU) for _ in range(2))
    write_rows(whole, layout, 20, data, name)
    for start, end in ((0, 1), (1, 77), (77, 150)):
        write_rows(pieces, layout, 20 + start, data[start:end], name)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert any(plane.any() for plane in whole)


def test_weights_of_q4_0_stand_where_kernels_look_for_them():
    data = torch.zeros(1, 18 * 4, dtype=torch.uint8)
    data[0, 18 + 2 + 5] = 0xA3  # of the second block: weight 5 is 3, weight 21 is 10
    planes = empty_planes(LAYOUTS["Q4_0"], 1, 128, CPU)
    write_rows(planes, LAYOUTS["Q4_0"], 0, data, "Q4_0")
    words = planes.low[0, 0, :32]
    assert words[5] == 0x0030
    assert words[21] == 0x00A0
    assert planes.low.count_nonzero() == 2
