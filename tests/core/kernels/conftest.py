"""Kernels in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"

SETUP = """
import torch

torch.manual_seed(0)

def error(found, exact):
    assert found.shape == exact.shape
    difference = (found.double() - exact).norm()
    return (difference / exact.norm()).item()

def within(last_dim, x):
    # Rows of x between NaN: what is read beside them shows.
    wide = torch.full((x.shape[0] + 2, last_dim), torch.nan, dtype=x.dtype)
    wide[1:-1, : x.shape[1]] = x
    return wide[1:-1, : x.shape[1]]
"""


PACKED_SETUP = (
    f"""
import runpy
globals().update(runpy.run_path({str(BLOCKS)!r}))
"""
    + """
import torch.nn.functional as F
from ferrule.kernels.packed import packed_product
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.repack import empty_planes, write_rows

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3}

def packed(name, num_out, num_in):
    data = random_blocks(name, num_out, num_in)
    planes = empty_planes(LAYOUTS[name], num_out, num_in, torch.device("cpu"))
    write_rows(planes, LAYOUTS[name], 0, data, name)
    return planes, exact(name, data).double()

def product(name, x, planes, num_out, *args, **kwargs):
    out = packed_product(x, planes, LAYOUTS[name], num_out, *args, **kwargs)
    assert out.dtype is x.dtype
    return out
"""
)


@pytest.fixture
def interpret(interpreted):
    """``interpret(program)``: runs it with the names of ``SETUP``; fails unless it ends."""
    return lambda program: interpreted(SETUP + program)


@pytest.fixture
def interpret_packed(interpret):
    """The same with packed matrices of random blocks, and their products."""
    return lambda program: interpret(PACKED_SETUP + program)
