"""Times what stands between the products of a layer: ``python tests/gpu/bench_small_kernels.py``.

Prints a line of JSON for each shape: attention of new tokens as a step of decode runs it (rotated,
written and attended in one call), and norms with a residual. Shapes are those of an 8B Llama. Times
are medians of graph replays, of attention over more memory than the device's cache holds; every
result is checked against float64 first.
"""

from __future__ import annotations

import argparse
import sys

import torch
from timing import microseconds, say

from ferrule.kernels.norm import add_rms_norm
from ferrule.kernels.paged_decode import NewTokens, paged_decode
from ferrule.kernels.rotation import rotation_of

HEADS, KV_HEADS, DIM, SIZE = 32, 8, 128, 4096
BLOCK_SIZE = 64
BYTES = 150e6
TYPE = torch.bfloat16


def wrong(found, exact):
    """Relative error; ends the run where it is no rounding."""
    error = ((found.double() - exact).norm() / exact.norm()).item()
    assert error < 1e-2, error
    return error


class Decode:
    """One layer's attention for ``rows`` sequences of ``context`` tokens, the new one included."""

    def __init__(self, rows, context, device):
        blocks = -(-context // BLOCK_SIZE)
        shape = (rows * blocks, BLOCK_SIZE, KV_HEADS, DIM)
        self.keys = torch.randn(shape, device=device, dtype=TYPE)
        self.values = torch.randn(shape, device=device, dtype=TYPE)
        self.tables = torch.randperm(rows * blocks, device=device).int().view(rows, blocks)
        self.lengths = torch.full((rows,), context, device=device)
        fused = torch.randn(rows, HEADS + 2 * KV_HEADS, DIM, device=device, dtype=TYPE)
        self.q, new_keys, new_values = fused.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        frequencies = 10000.0 ** (-torch.arange(0, DIM, 2, device=device) / DIM)
        last = context - 1
        self.new = NewTokens(
            keys=new_keys,
            values=new_values,
            rotation=rotation_of(self.lengths - 1, frequencies, 1.0, TYPE),
            cache_rows=self.tables[:, last // BLOCK_SIZE].long() * BLOCK_SIZE + last % BLOCK_SIZE,
        )
        self.num_bytes = 2 * rows * context * KV_HEADS * DIM * TYPE.itemsize

    def __call__(self):
        return paged_decode(
            self.q, self.keys, self.values, self.tables, self.lengths,
            scale=DIM**-0.5, window=None, new=self.new,
        )  # fmt: skip

    def exact(self, row):
        """``[heads, head_dim]`` float64 of one row, its token being in the cache."""
        context = int(self.lengths[row])
        k, v = (
            cache[self.tables[row].long()].flatten(0, 1)[:context].double()
            for cache in (self.keys, self.values)
        )
        cos, sin = (x[row, 0].double() for x in self.new.rotation)
        q = self.q[row].double()
        q = (q * cos + torch.roll(q, DIM // 2, dims=-1) * sin).to(TYPE).double()
        group = HEADS // KV_HEADS
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        weights = (torch.einsum("hd,khd->hk", q, k) * DIM**-0.5).softmax(-1)
        return torch.einsum("hk,khd->hd", weights, v)


def time_decode(rows, context, device):
    """As many caches as the device's cache cannot hold, one call each."""
    first = Decode(rows, context, device)
    error = wrong(first()[-1], first.exact(rows - 1))
    count = max(4, int(BYTES / first.num_bytes) + 1)
    us = microseconds([first, *(Decode(rows, context, device) for _ in range(min(count, 64) - 1))])
    say(attention=rows, context=context, us=us, tb_s=first.num_bytes / us / 1e6, error=error)


def time_norm(rows, device):
    """Kept where it fits: a norm reads what the product in front of it wrote."""
    x, residual = (torch.randn(rows, SIZE, device=device, dtype=TYPE) for _ in range(2))
    weight = torch.ones(SIZE, device=device, dtype=TYPE)
    normed, _ = add_rms_norm(x, residual, weight, 1e-5)
    summed = (x + residual).double()
    error = wrong(normed, summed * (summed.square().mean(-1, keepdim=True) + 1e-5).rsqrt())
    us = microseconds([lambda: add_rms_norm(x, residual, weight, 1e-5)] * 20)
    say(norm=rows, us=us, tb_s=4 * x.numel() * TYPE.itemsize / us / 1e6, error=error)


def main():
    """Times all shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=(1, 8, 64, 256))
    parser.add_argument("--contexts", nargs="+", type=int, default=(300, 1088))
    parser.add_argument("--norms", nargs="+", type=int, default=(1, 64, 512, 2048))
    args = parser.parse_args()
    device = torch.device("cuda")
    for rows in args.rows:
        for context in args.contexts:
            time_decode(rows, context, device)
            torch.cuda.empty_cache()
    for rows in args.norms:
        time_norm(rows, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
