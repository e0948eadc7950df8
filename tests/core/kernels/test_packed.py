"""Products with packed weights in Triton's interpreter, against float64 and the gguf package."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
SMALL = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
LARGE = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
SETUP = (
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
EVERY_USE = """
num_out, num_in = (70, 96) if name in SMALL else (70, 256)
planes, weight = packed(name, num_out, num_in)

def check(num_rows, dtype, tiles, *uses):
    unit = 1 / (weight.std().item() * num_in**0.5)  # or float16 overflows
    x = within(num_in + 5, (torch.randn(num_rows, num_in) * unit).to(dtype))
    bias, hidden = torch.randn(num_out).to(dtype), torch.randn(num_rows, num_out).to(dtype)
    plain, most = x.double() @ weight.T, TOLERANCE[dtype]
    biased = plain + bias.double()
    if "plain" in uses:
        assert error(product(name, x, planes, num_out, tiles=tiles), plain) < most
    if "gated" in uses:
        gated = product(name, x, planes, num_out, bias, gated=True, tiles=tiles)
        gate, up = biased.chunk(2, dim=-1)
        assert error(gated, F.silu(gate) * up) < 2 * most
    # Columns of a wider output, beside which nothing is touched.
    wide = torch.full((num_rows, num_out + 9), 7.0, dtype=dtype)
    part = wide[:, 4:-5]
    if "out" in uses:
        product(name, x, planes, num_out, bias, out=part, tiles=tiles)
        assert error(part, biased) < most
    if "adds" in uses:
        part.copy_(hidden)
        product(name, x, planes, num_out, bias, add_to=part, tiles=tiles)
        assert error(part, biased + hidden.double()) < most
    assert (wide[:, :4] == 7).all() and (wide[:, -5:] == 7).all()

scaled = {"scales_first": True}
check(1, torch.float32, PackedTiles(32, 1, 1, 4, 2), "gated")
check(3, torch.float16, PackedTiles(128, 1, 2, 4, 2), "out")
check(8, torch.float32, PackedTiles(128, 2, 1, 4, 2), "adds")
check(17, torch.float32, PackedTiles(64, 1, 4, 4, 2, **scaled), "plain")
check(64, torch.float16, PackedTiles(128, 1, 1, 4, 2, **scaled), "gated")
"""


PAIR = """
from ferrule.kernels.packed_pair import packed_pair

num_in, rows_of = 256, (70, 33)
planes, weights = zip(*(packed(name, n, num_in) for name, n in zip(names, rows_of)))
matrices = tuple((p, LAYOUTS[name], n) for p, name, n in zip(planes, names, rows_of))
exact_weight = torch.cat(weights)
num_out = sum(rows_of)

def check(num_rows, dtype, has_bias, first, second):
    unit = 1 / (exact_weight.std().item() * num_in**0.5)
    x = within(num_in + 5, (torch.randn(num_rows, num_in) * unit).to(dtype))
    bias = torch.randn(num_out).to(dtype) if has_bias else None
    expected = x.double() @ exact_weight.T + (0 if bias is None else bias.double())
    wide = torch.full((num_rows, num_out + 9), 7.0, dtype=dtype)
    for _ in range(2):  # counters of splits are left at zero
        packed_pair(x, matrices, bias, wide[:, 4:-5], (first, second))
        assert error(wide[:, 4:-5], expected) < TOLERANCE[dtype]
        for part in (slice(0, 70), slice(70, 103)):
            assert error(wide[:, 4:-5][:, part], expected[:, part]) < 2 * TOLERANCE[dtype]
    assert (wide[:, :4] == 7).all() and (wide[:, -5:] == 7).all()

check(1, torch.float32, True, PackedTiles(32, 1, 1, 2, 2), PackedTiles(32, 1, 2, 2, 2))
check(5, torch.float16, False, PackedTiles(64, 1, 2, 2, 2), PackedTiles(32, 1, 1, 2, 2))
scaled = {"scales_first": True}
check(17, torch.float32, False, PackedTiles(64, 1, 1, 4, 2, **scaled),
      PackedTiles(64, 1, 2, 4, 2, **scaled))
"""


@pytest.mark.parametrize("names", [("Q4_K", "Q6_K"), ("Q5_K", "Q6_K"), ("Q4_0", "Q8_0")])
def test_two_matrices_of_different_types_go_side_by_side(interpret, names):
    interpret(f"names, SMALL = {names!r}, {SMALL}\n{SETUP}{PAIR}")


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_products_are_those_of_the_dequantised_weights(interpret, name):
    interpret(f"name, SMALL = {name!r}, {SMALL}\n{SETUP}{EVERY_USE}")
