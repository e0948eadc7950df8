"""The decode kernel on the device against attention in float64, on random input."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu

# Heads, key heads, head size, page, window.
SHAPES = [
    (32, 8, 128, 64, None),
    (9, 3, 64, 64, None),
    (28, 4, 128, 32, 100),
    (32, 32, 80, 16, 1),
]
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 6e-4, torch.float32: 2e-6}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_row_equals_attention_in_float64(shape, dtype):
    from ferrule.kernels.paged_decode import paged_decode

    heads, kv_heads, dim, page, window = shape
    lengths = torch.tensor([1, 65, 700, 1088, 0, 4000], device="cuda")
    num_blocks = -(-4000 // page)
    keys = torch.randn(6 * num_blocks, page, kv_heads, dim, device="cuda", dtype=dtype)
    values = torch.randn_like(keys)
    tables = torch.randperm(6 * num_blocks, device="cuda").view(6, num_blocks).int()
    q = torch.randn(6, heads + 2, dim, device="cuda", dtype=dtype)[:, :heads]
    out = paged_decode(q, keys, values, tables, lengths, scale=dim**-0.5, window=window)
    assert out[4].count_nonzero() == 0
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        first = 0 if window is None else max(0, length - window)
        k, v = (
            cache[tables[row].long()].flatten(0, 1)[first:length].double()
            for cache in (keys, values)
        )
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        scores = torch.einsum("hd,khd->hk", q[row].double(), k) * dim**-0.5
        exact = torch.einsum("hk,khd->hd", scores.softmax(-1), v)
        assert (out[row].double() - exact).norm() / exact.norm() < TOLERANCE[dtype]
