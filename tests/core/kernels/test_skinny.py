"""Products of a few rows in Triton's interpreter, against the definition in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

SETUP = """
import torch.nn.functional as F
from ferrule.kernels.skinny import skinny_product
from ferrule.kernels.tiles import MAX_ROWS, Tiles, choose_tiles

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3}

def operands(num_rows, num_out, num_in, dtype):
    x = within(num_in + 5, torch.randn(num_rows, num_in).to(dtype))
    weight = within(num_in, (torch.randn(num_out, num_in) * num_in**-0.5).to(dtype))
    bias, hidden = torch.randn(num_out).to(dtype), torch.randn(num_rows, num_out).to(dtype)
    return x, weight, bias, hidden

def check(num_rows, num_out, num_in, dtype, tiles):
    x, weight, bias, hidden = operands(num_rows, num_out, num_in, dtype)
    plain = x.double() @ weight.double().T
    biased = plain + bias.double()
    gate, up = biased[:, : num_out // 2], biased[:, num_out // 2 :]
    where, most = (num_rows, num_out, num_in, dtype, tiles), TOLERANCE[dtype]

    def product(*args, **kwargs):
        out = skinny_product(x, weight, *args, **kwargs, tiles=tiles)
        assert out.dtype is dtype
        return out

    assert error(product(), plain) < most, where
    assert error(product(bias, gated=True), F.silu(gate) * up) < 2 * most, where
    taken = hidden.clone()
    assert product(bias, add_to=taken) is taken
    assert error(taken, biased + hidden.double()) < most, where
"""

EVERY_CUT = """
cuts = [  # out and in, and tiles that do and do not divide them
    (64, 128, Tiles(16, 64, 1, 4, 2)),
    (70, 100, Tiles(32, 64, 1, 4, 2)),
    (36, 300, Tiles(32, 64, 2, 4, 2)),
    (64, 512, Tiles(64, 64, 4, 4, 2)),
    (14, 40, Tiles(16, 32, 4, 4, 2)),  # more programs than there are columns for
]
rows = {torch.float32: (2, 17, 40), torch.float16: (3, MAX_ROWS)}
for dtype in TOLERANCE:
    for num_rows in rows[dtype]:
        for num_out, num_in, tiles in cuts:
            check(num_rows, num_out, num_in, dtype, tiles)
    for num_out, num_in, tiles in [
        (64, 128, Tiles(8, 64, 1, 4, 2)),
        (22, 100, Tiles(4, 64, 1, 4, 2)),
        (22, 513, Tiles(16, 512, 1, 4, 2)),
    ]:
        check(1, num_out, num_in, dtype, tiles)
# Without a bias where the other kinds have one.
x, weight, _, hidden = operands(3, 22, 40, torch.float32)
exact = x.double() @ weight.double().T
for rows in (1, 3):
    gate, up = exact[:rows].chunk(2, dim=-1)
    tiles = Tiles(16, 32, 1, 4, 2)
    gated = skinny_product(x[:rows], weight, gated=True, tiles=tiles)
    assert error(gated, F.silu(gate) * up) < 2e-5
    added = skinny_product(x[:rows], weight, add_to=hidden[:rows].clone(), tiles=tiles)
    assert error(added, exact[:rows] + hidden[:rows].double()) < 1e-5
"""

CHOSEN_CUTS = """
# Each of the ways of choose_tiles, on columns that no tile divides; few rows of a large matrix
# show all that its many would.
for num_rows, num_out, num_in, most_rows in [
    (1, 20, 2048, 20),
    (1, 20, 1030, 20),
    (2, 70, 200, 70),
    (3, 70, 8200, 70),
    (16, 8450, 136, 130),
    (16, 16390, 136, 130),
    (40, 16390, 136, 70),
    (MAX_ROWS, 65540, 136, 130),
]:
    tiles = choose_tiles(num_rows, num_out, num_in)
    check(num_rows, most_rows, num_in, torch.float16, tiles)
"""

ALONE_AND_AGAIN = """
tiles = Tiles(16, 64, 4, 4, 2)
x, weight, bias, _ = operands(17, 70, 500, torch.float32)
first = skinny_product(x, weight, bias, tiles=tiles)
assert torch.equal(skinny_product(x, weight, bias, tiles=tiles), first), "counters are left at 0"
spoilt = x.clone()
spoilt[[0, 3, 16]] = torch.nan
others = [row for row in range(17) if row not in (0, 3, 16)]
assert torch.equal(skinny_product(spoilt, weight, bias, tiles=tiles)[others], first[others])
# Sums are float32 whatever the type: these leave float16's range on the way.
ones = torch.ones(2, 256, dtype=torch.float16)
weight = torch.full((16, 256), 600.0, dtype=torch.float16)
weight[:, 128:] = -600
for rows in (ones, ones[:1]):
    assert not skinny_product(rows, weight, tiles=Tiles(16, 64, 1, 4, 2)).any()
# The gate of a large negative number is 0 and that of a large positive one itself.
weight = torch.tensor([[-900.0], [900.0], [2.0], [3.0]]).expand(4, 256).half() / 256
for rows in (ones, ones[:1]):
    gated = skinny_product(rows, weight, gated=True, tiles=Tiles(16, 64, 1, 4, 2))
    assert error(gated, torch.tensor([[0.0, 2700.0]]).expand_as(gated).double()) < 1e-3
"""


@pytest.mark.parametrize("program", [EVERY_CUT, CHOSEN_CUTS, ALONE_AND_AGAIN])
def test_products_equal_the_definition(interpret, program):
    interpret(SETUP + program)


def test_steps_on_their_way_fit_what_the_device_has_on_chip(interpret):
    interpret("""
from ferrule.kernels import skinny
from ferrule.kernels.tiles import Tiles

x = torch.zeros(16, 512).half()
tiles = Tiles(64, 128, 1, 4, 5)  # a step takes (64 + 16) * 128 * 2 bytes: 20 KiB
assert skinny._fitting_stages(tiles, 16, x) == 5
skinny.shared_memory = lambda device: 99 * 1024
assert skinny._fitting_stages(tiles, 16, x) == 4
assert skinny._fitting_stages(tiles, 1, x) == 5, "one row goes to registers"
""")
