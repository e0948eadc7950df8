"""RMS norms in Triton's interpreter, against the definition in float64."""

from __future__ import annotations

PROGRAM = """
from ferrule.kernels.norm import add_rms_norm, rms_norm

def definition(x, weight, eps):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()

for dtype, most in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
    for num_rows, size in [(1, 100), (2, 64), (3, 1), (17, 1000), (40, 24)]:
        x = within(size + 7, torch.randn(num_rows, size).to(dtype))
        residual = within(size, torch.randn(num_rows, size).to(dtype))
        weight = torch.randn(size).to(dtype)
        exact = definition(x, weight, 0.1)
        normed = rms_norm(x, weight, 0.1)
        assert normed.dtype is dtype and error(normed, exact) < most, (num_rows, size, dtype)
        kept = residual.clone()
        normed, summed = add_rms_norm(x, residual, weight, 0.1)
        assert torch.equal(summed, x + residual) and torch.equal(residual, kept)
        assert error(normed, definition(x + residual, weight, 0.1)) < most, (num_rows, size, dtype)

# Squares of these leave float16's range at either end; sums are float32.
for magnitude in (3e4, 3e-4):
    x = (torch.randn(3, 50).clamp(-2, 2) * magnitude).half()
    weight = torch.ones(50).half()
    assert error(rms_norm(x, weight, 0.0), definition(x, weight, 0.0)) < 1e-3
assert not rms_norm(torch.zeros(2, 50), torch.ones(50), 1e-5).any(), "no NaN from nothing"
"""


def test_norms_equal_the_definition(interpret):
    interpret(PROGRAM)
