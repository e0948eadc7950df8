"""A product with packed weights inside code that torch compiles."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

BLOCKS = Path(__file__).parents[2] / "data" / "gguf_blocks.py"
PROGRAM = """
from torch._dynamo.testing import CompileCounter
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage

def storage(seed):
    made = PackedStorage(
        40, 64, type="Q4_1", dtype=torch.float32, device=torch.device("cpu")
    )
    made.write(0, random_blocks("Q4_1", 40, 64, seed), FORMATS["Q4_1"])
    made.finish()
    return made

counter = CompileCounter()

@torch.compile(fullgraph=True, dynamic=True, backend=counter)
def run(held, x, hidden):
    y = held.multiply(x + 1)
    hidden = held.multiply(x, None, hidden.clone())
    return y, hidden, held.multiply_gated(x) * 2

for seed in range(3):
    held = storage(seed)
    for rows in (3, 5):
        x, hidden = torch.randn(rows, 64), torch.randn(rows, 40)
        weight = exact("Q4_1", random_blocks("Q4_1", 40, 64, seed)).double()
        y, summed, gated = run(held, x, hidden)
        assert error(y, (x.double() + 1) @ weight.T) < 1e-5
        assert error(summed, x.double() @ weight.T + hidden.double()) < 1e-5
        gate, up = (x.double() @ weight.T).chunk(2, dim=-1)
        assert error(gated, 2 * torch.nn.functional.silu(gate) * up) < 1e-5
# Other weights and other numbers of rows take the graph that is there.
assert counter.frame_count == 1, counter.frame_count
"""


def test_one_graph_does_for_all_packed_weights_of_a_size(interpret):
    interpret(f"import runpy\nglobals().update(runpy.run_path({str(BLOCKS)!r}))\n{PROGRAM}")
