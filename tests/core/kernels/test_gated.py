"""The gate in Triton's interpreter, against the definition in float64."""

from __future__ import annotations

PROGRAM = """
from ferrule.kernels.gated import silu_mul

def definition(gate, up):
    return gate.double() / (1 + (-gate.double()).exp()) * up.double()

for dtype, most in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
    for num_rows, width in [(1, 1030), (2, 1), (3, 2048), (17, 40), (40, 7)]:
        gate, up = torch.randn(2, num_rows, width).to(dtype) * 3
        out = silu_mul(within(2 * width, torch.cat((gate, up), dim=1)))
        assert out.dtype is dtype and out.is_contiguous()
        assert error(out, definition(gate, up)) < most, (num_rows, width, dtype)

# Far from 0 the gate is shut or does nothing; its exponential is infinite on one side.
for dtype in (torch.float32, torch.float16):
    x = torch.tensor([[-5000.0, -200.0, 0.0, 200.0, 5000.0, 3.0, 3.0, 3.0, 3.0, 3.0]]).to(dtype)
    assert silu_mul(x).tolist() == [[0, 0, 0, 600, 15000]]
"""


def test_gates_equal_the_definition(interpret):
    interpret(PROGRAM)
