"""A packed matrix from rows of a file to products, in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
PROGRAM = (
    f"""
import runpy, torch
globals().update(runpy.run_path({str(BLOCKS)!r}))
"""
    + """
from ferrule.layers import Linear
from ferrule.quantization import packed
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage

torch.manual_seed(0)
packed._PIECE = 7 * 256

def storage(name, num_rows, num_cols, start=0):
    made = PackedStorage(
        num_rows, num_cols, type=name, dtype=torch.float32, device=torch.device("cpu")
    )
    data = random_blocks(name, num_rows, num_cols)
    made.write(0, data[:9], FORMATS[name])
    made.write(9, data[9:], FORMATS[name])
    return made, exact(name, data)

def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)

held, weight = storage("Q6_K", 30, 256)
held.finish(gathers=True)
assert torch.equal(held.dense(), weight)
index = torch.tensor([[3, 29], [0, 3]])
assert torch.equal(held.gather(index), weight[index])
x = torch.randn(2, 3, 256)
close(held.multiply(x), x @ weight.T)
assert held.multiply_gated(x).shape == (2, 3, 15)
held.keep_copy()
assert torch.equal(held.weight.copy, weight)
only_gathers, _ = storage("Q6_K", 30, 256)
only_gathers.finish(gathers=True, multiplies=False)
only_gathers.keep_copy()
assert only_gathers.weight.copy is None

# Parts of different types write beside each other.
first, second = storage("Q4_K", 30, 256), storage("Q6_K", 12, 256)
linear = Linear(256, {"q": 30, "v": 12}, bias=True)
linear.storages = [first[0], second[0]]
linear.bias = torch.randn(42)
x = torch.randn(3, 256)
plain = x @ torch.cat([first[1], second[1]]).T + linear.bias
close(linear(x), plain)
hidden = torch.randn(3, 42)
close(linear(x, hidden.clone()), plain + hidden)
close(linear(x[None])[0], plain)
"""
)


def test_products_rows_and_copies_are_those_of_the_files_weights():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
