"""Products with packed weights in Triton's interpreter, against float64 and the gguf package."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

SMALL = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
LARGE = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
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


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_products_are_those_of_the_dequantised_weights(interpret_packed, name):
    interpret_packed(f"name, SMALL = {name!r}, {SMALL}\n{EVERY_USE}")
