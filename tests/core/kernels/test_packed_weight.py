"""Which way a product with packed weights takes; each way's arithmetic has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
PROGRAM = """
import torch.nn.functional as F
from dataclasses import replace
from ferrule.kernels.packed_tiles import MAX_ROWS, ROWS_BEFORE_COPY
from ferrule.kernels.packed_weight import PackedWeight, packed_multiply, packed_multiply_gated
from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.repack import empty_planes, write_rows

data = random_blocks("Q4_0", 40, 64)
planes = empty_planes(LAYOUTS["Q4_0"], 40, 64, torch.device("cpu"))
write_rows(planes, LAYOUTS["Q4_0"], 0, data, "Q4_0")
weight = PackedWeight(planes=planes, type="Q4_0", num_rows=40)
exact_weight = exact("Q4_0", data).double()
# A copy of other weights shows when it is used.
marked = replace(weight, copy=-exact("Q4_0", data))
for rows in (3, ROWS_BEFORE_COPY, ROWS_BEFORE_COPY + 1, MAX_ROWS + 1):
    x, bias, hidden = torch.randn(rows, 64), torch.randn(40), torch.randn(rows, 40)
    product = x.double() @ exact_weight.T
    assert error(packed_multiply(x, weight), product) < 1e-6
    sign = 1 if rows <= ROWS_BEFORE_COPY else -1
    assert error(packed_multiply(x, marked), sign * product) < 1e-6
    added = packed_multiply(x, weight, bias, hidden.clone())
    assert error(added, product + bias.double() + hidden.double()) < 1e-6
    wide = torch.zeros(rows, 50)
    packed_multiply(x, weight, bias, out=wide[:, 5:45])
    assert error(wide[:, 5:45], product + bias.double()) < 1e-6
    assert not wide[:, :5].any() and not wide[:, 45:].any()
    gate, up = (product + bias.double()).chunk(2, dim=-1)
    assert error(packed_multiply_gated(x, weight, bias), F.silu(gate) * up) < 1e-6
"""


def test_few_rows_meet_packed_weights_and_many_the_copy_or_dequantised_ones(interpret):
    interpret(f"import runpy\nglobals().update(runpy.run_path({str(BLOCKS)!r}))\n{PROGRAM}")
