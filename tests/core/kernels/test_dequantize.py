"""Planes back to numbers, bit for bit as the gguf package gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
PROGRAM = """
from ferrule.kernels.dequantize import dequantize
from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.repack import empty_planes, write_rows

for name, layout in LAYOUTS.items():
    num_rows, num_cols = 70, 256 if name.endswith(("K", "XS")) else 96
    data = random_blocks(name, num_rows, num_cols)
    planes = empty_planes(layout, num_rows, num_cols, torch.device("cpu"))
    write_rows(planes, layout, 0, data[:33], name)
    write_rows(planes, layout, 33, data[33:], name)
    weight = exact(name, data)
    found = dequantize(planes, layout, torch.empty(num_rows, num_cols))
    assert torch.equal(found, weight), name
    index = torch.tensor([3, 69, 0, 3, 64])
    assert torch.equal(dequantize(planes, layout, torch.empty(5, num_cols), index), weight[index])
    assert dequantize(planes, layout, torch.empty(0, num_cols), index[:0]).shape == (0, num_cols)
    half = dequantize(planes, layout, torch.empty(num_rows, num_cols, dtype=torch.float16))
    assert torch.equal(half, weight.half()), name
"""


def test_every_type_is_as_the_file_has_it(interpret):
    interpret(f"import runpy\nglobals().update(runpy.run_path({str(BLOCKS)!r}))\n{PROGRAM}")
