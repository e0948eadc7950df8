"""Cosines and sines in Triton's interpreter, against those of float64."""

from __future__ import annotations

PROGRAM = """
from ferrule.kernels.rotation import rotation_of

for dtype, most in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
    for num_tokens, half, scale in [(1, 8, 1.0), (2, 1, 1.5), (17, 12, 1.0), (40, 64, 0.7)]:
        positions = torch.randint(0, 5000, (num_tokens,))
        positions[0] = 0
        frequencies = torch.rand(half)
        cos, sin = rotation_of(positions, frequencies, scale, dtype)
        assert cos.dtype is sin.dtype is dtype
        # Angles are float32 by definition: 4000 radians leave little of a small difference.
        angle = (positions.float()[:, None] * frequencies).double()
        both = torch.cat((angle, angle), dim=1)[:, None]
        sign = torch.cat((-torch.ones(half), torch.ones(half)))
        assert error(cos, both.cos() * scale) < most, (num_tokens, half, dtype)
        assert cos.shape == sin.shape == (num_tokens, 1, 2 * half)
        if num_tokens > 1:
            assert error(sin, both.sin() * sign * scale) < most, (num_tokens, half, dtype)
        assert (cos[0] == torch.tensor(scale).to(dtype)).all() and not sin[0].any()
"""


def test_angles_of_every_position(interpret):
    interpret(PROGRAM)
