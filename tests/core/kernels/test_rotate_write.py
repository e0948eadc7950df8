"""Rotation and writing of the cache in Triton's interpreter, against complex numbers."""

from __future__ import annotations

SETUP = """
from ferrule.kernels.rotate_write import rotate_write

def rotated(x, angle):
    # Channels i and i + rotary/2 are one complex number, which is turned by an angle.
    half = angle.shape[1]
    x = x.double()
    turned = torch.complex(x[..., :half], x[..., half : 2 * half])
    turned = turned * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((turned.real, turned.imag, x[..., 2 * half :]), dim=-1)

def rotation(angle, dtype):
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)

BLOCKS, SIZE = 9, 5

def cache(kv_heads, dim, dtype):
    return torch.full((BLOCKS, SIZE, kv_heads, dim), 7.0, dtype=dtype)
"""

EVERY_SHAPE = """
for num_tokens, heads, kv_heads, dim, rotary, dtype in [
    (1, 4, 2, 16, 16, torch.float32),
    (2, 3, 1, 24, 16, torch.float32),
    (3, 6, 3, 16, 2, torch.float16),
    (17, 3, 3, 40, 40, torch.float32),
    (40, 7, 1, 8, 8, torch.float16),
    (3, 4, 2, 12, 0, torch.float16),
]:
    most = 1e-6 if dtype is torch.float32 else 2e-3
    wide = (num_tokens, heads + 2 * kv_heads, dim)
    q, k, v = torch.randn(wide).to(dtype).split((heads, kv_heads, kv_heads), dim=1)
    angle = torch.rand(num_tokens, rotary // 2, dtype=torch.float64) * 6.28
    keys, values = cache(kv_heads, dim, dtype), cache(kv_heads, dim, dtype)
    at = torch.randperm(BLOCKS * SIZE)[:num_tokens]
    given = rotation(angle, dtype) if rotary else None
    out = rotate_write(q, k, v, given, at, keys, values)
    assert out.dtype is dtype and out.is_contiguous()
    key_rows, value_rows = keys.flatten(0, 1), values.flatten(0, 1)
    assert error(out, rotated(q, angle)) < most, (dim, rotary)
    assert error(key_rows[at], rotated(k, angle)) < most, (dim, rotary)
    assert torch.equal(out[..., rotary:], q[..., rotary:]), "channels that do not turn"
    assert torch.equal(value_rows[at], v)
    others = torch.ones(BLOCKS * SIZE, dtype=torch.bool)
    others[at] = False
    assert (key_rows[others] == 7).all() and (value_rows[others] == 7).all()
"""

STRIDES = """
# Queries, keys and values that are no parts of one tensor, and NaN where they do not reach.
q, k, v = (torch.full((6, n, 16), torch.nan)[1:4, :heads] for n, heads in ((5, 4), (3, 2), (2, 2)))
for x in (q, k, v):
    x.copy_(torch.randn(x.shape))
angle = torch.rand(3, 8, dtype=torch.float64)
keys, values = cache(2, 16, torch.float32), cache(2, 16, torch.float32)
at = torch.tensor([44, 0, 23])
out = rotate_write(q, k, v, rotation(angle, torch.float32), at, keys, values)
assert error(out, rotated(q, angle)) < 1e-6
for row, (block, place) in enumerate([(8, 4), (0, 0), (4, 3)]):
    assert error(keys[block, place], rotated(k, angle)[row]) < 1e-6
    assert torch.equal(values[block, place], v[row])
"""


def test_queries_keys_and_values_of_every_shape(interpret):
    interpret(SETUP + EVERY_SHAPE + STRIDES)
