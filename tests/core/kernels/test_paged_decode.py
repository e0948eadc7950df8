"""The decode kernel in Triton's interpreter, against attention in float64."""

from __future__ import annotations

PROGRAM = """
import itertools, sys, torch
from ferrule.kernels.paged_decode import num_splits, paged_decode

torch.manual_seed(0)
for dtype, (heads, kv_heads), dim, block_size, window in [
    (torch.float32, (4, 2), 16, 8, None),
    (torch.float16, (6, 2), 32, 16, None),
    (torch.float32, (3, 3), 40, 5, None),
    (torch.float32, (14, 1), 16, 64, 9),
    (torch.float16, (4, 1), 16, 64, 1),
]:
    lengths = torch.tensor([1, 70, 0, 129], dtype=torch.int32)
    num_blocks = -(-129 // block_size)
    keys = torch.randn(4 * num_blocks + 1, block_size, kv_heads, dim).to(dtype)
    values = torch.randn_like(keys)
    tables = torch.randperm(4 * num_blocks)[: 4 * num_blocks].view(4, num_blocks).int()
    wide = torch.randn(4, heads + 2, dim).to(dtype)
    q = wide[:, :heads]
    out = paged_decode(q, keys, values, tables, lengths, scale=0.3, window=window)
    assert out[2].count_nonzero() == 0, "a padding row"
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        first = 0 if window is None else max(0, length - window)
        k = keys[tables[row].long()].flatten(0, 1)[first:length].double()
        v = values[tables[row].long()].flatten(0, 1)[first:length].double()
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        scores = torch.einsum("hd,khd->hk", q[row].double(), k) * 0.3
        exact = torch.einsum("hk,khd->hd", scores.softmax(-1), v)
        error = ((out[row].double() - exact).norm() / exact.norm()).item()
        assert error < (1e-5 if dtype is torch.float32 else 2e-3), (dtype, dim, row, error)
for tiles in (1, 8, 64, 1000):
    splits = num_splits(tiles)
    assert 1 <= splits <= 32 and splits & (splits - 1) == 0
"""


def test_every_shape_equals_attention_in_float64(interpreted):
    interpreted(PROGRAM)
