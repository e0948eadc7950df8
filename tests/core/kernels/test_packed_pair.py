"""Two packed matrices by one launch, in Triton's interpreter, against float64."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

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
def test_both_are_written_side_by_side(interpret_packed, names):
    interpret_packed(f"names = {names!r}\n{PAIR}")
