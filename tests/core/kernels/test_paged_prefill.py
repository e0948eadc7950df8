"""The kernel for prompt chunks in Triton's interpreter, against attention in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")

SETUP = """
from ferrule.kernels import paged_prefill as module
from ferrule.kernels.paged_prefill import can_fetch_in_bulk, paged_prefill

# Small tiles: a chunk then has several of each kind.
module.KEY_TILE = 16
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}

def tiles_of(chunks, query_tile):
    tiles, row = [], 0
    for slot, (start, count) in enumerate(chunks):
        for first in range(0, count, query_tile):
            tiles.append((slot, row + first, min(query_tile, count - first), start + first))
        row += count
    return torch.tensor([(0, 0, 0, 0), *tiles, (3, 0, 0, 9)]), row  # what pads is anywhere

def exactly(q, keys, values, start, scale, window):
    # One chunk's queries over the keys of its sequence.
    group = q.shape[1] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q.double(), keys) * scale
    query = torch.arange(start, start + q.shape[0])[:, None]
    place = torch.arange(keys.shape[0])
    seen = place <= query
    if window is not None:
        seen &= query - place < window
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), values)

def check(chunks, heads, kv_heads, dim, block_size, *, window=None, dtype, bulk, query_tile=16):
    tiles, num_rows = tiles_of(chunks, query_tile)
    longest = max(start + count for start, count in chunks)
    num_blocks = -(-longest // block_size) + 1
    tables = torch.randperm(len(chunks) * num_blocks).view(len(chunks), num_blocks).int()
    # What was not written is NaN; only the copy engine's values must be numbers.
    shape = (len(chunks) * num_blocks, block_size, kv_heads, dim)
    keys = torch.full(shape, torch.nan, dtype=dtype)
    values = torch.full(shape, 100.0 if bulk else torch.nan, dtype=dtype)
    q = torch.full((num_rows, heads + 2, dim), torch.nan, dtype=dtype)[:, :heads]
    q.copy_(torch.randn(q.shape))
    out = torch.full((num_rows + 3, heads, dim), -7.0, dtype=dtype)
    exact, row = [], 0
    for slot, (start, count) in enumerate(chunks):
        at = torch.arange(start + count)
        rows = tables[slot, at // block_size].long() * block_size + at % block_size
        both = torch.randn(2, len(at), kv_heads, dim).to(dtype)
        keys.view(-1, kv_heads, dim)[rows], values.view(-1, kv_heads, dim)[rows] = both
        exact.append(exactly(q[row : row + count], *both, start, 0.3, window))
        row += count
    if bulk:
        assert can_fetch_in_bulk(keys)
    for kind in (torch.int64, torch.int32):
        paged_prefill(
            q, keys, values, out, tables, tiles.to(kind),
            scale=0.3, window=window, query_tile=query_tile, bulk=bulk,
        )
        assert (out[num_rows:] == -7).all(), "rows of nobody"
        found = error(out[:num_rows], torch.cat(exact))
        assert found < TOLERANCE[dtype], (found, chunks, dim, block_size, window, dtype, bulk)
        # The rows of all but the first two stand already.
        tiles = tiles[:3].contiguous()
"""

GATHERED = """
CHUNKS = [(0, 37), (32, 18), (50, 1), (13, 35)]
for case in [
    dict(heads=3, kv_heads=3, dim=16, block_size=16, dtype=torch.float32),
    dict(heads=4, kv_heads=2, dim=24, block_size=5, dtype=torch.float16),
    dict(heads=2, kv_heads=2, dim=8, block_size=32, dtype=torch.float32, query_tile=32),
    dict(heads=1, kv_heads=1, dim=16, block_size=5, dtype=torch.float32, window=1),
    dict(heads=2, kv_heads=1, dim=40, block_size=16, dtype=torch.float32, window=9),
    dict(heads=1, kv_heads=1, dim=16, block_size=7, dtype=torch.float16, window=20),
    dict(heads=1, kv_heads=1, dim=16, block_size=16, dtype=torch.float32, window=40),
    dict(heads=1, kv_heads=1, dim=16, block_size=16, dtype=torch.float32, window=1000),
]:
    check(CHUNKS, **case, bulk=False)
# Starts and ends at each side of a tile's edge.
for window in (None, 16, 17):
    chunks = [(start, count) for start in (0, 15, 16) for count in (2, 17)]
    check(chunks, 1, 1, 16, 8, window=window, dtype=torch.float32, bulk=False)
"""

IN_BULK = """
CHUNKS = [(0, 37), (32, 18), (50, 1), (13, 35)]
for case in [
    dict(heads=4, kv_heads=2, dim=16, block_size=16),
    dict(heads=3, kv_heads=3, dim=32, block_size=64, query_tile=32),
    dict(heads=2, kv_heads=1, dim=16, block_size=32, window=1),
    dict(heads=2, kv_heads=1, dim=16, block_size=16, window=20),
    dict(heads=1, kv_heads=1, dim=16, block_size=16, window=1000),
]:
    check(CHUNKS, **case, dtype=torch.float16, bulk=True)
for window in (None, 17):
    chunks = [(start, count) for start in (0, 15, 16) for count in (2, 17)]
    check(chunks, 1, 1, 16, 32, window=window, dtype=torch.float16, bulk=True)

def cache(block_size, dim, dtype=torch.float16):
    return torch.empty(3, block_size, 2, dim, dtype=dtype)

module.KEY_TILE = 64
assert can_fetch_in_bulk(cache(64, 128)) and can_fetch_in_bulk(cache(192, 16))
assert not can_fetch_in_bulk(cache(32, 128)), "a tile would lie in two blocks"
assert not can_fetch_in_bulk(cache(96, 128))
assert not can_fetch_in_bulk(cache(64, 80)) and not can_fetch_in_bulk(cache(64, 8))
assert not can_fetch_in_bulk(cache(64, 128, torch.float32))
"""


LARGE_SCORES = """
# Scores far apart and far from 0: exponents of none may leave float32.
for shift in (-200.0, 200.0):
    q, keys, values = torch.randn(33, 1, 16), torch.randn(9, 8, 1, 16), torch.randn(9, 8, 1, 16)
    q[..., 0], keys[..., 0] = 1.0, shift
    keys[2, 3] *= 5
    tables, out = torch.arange(9)[None].int(), torch.empty(33, 1, 16)
    for window in (None, 18):
        tiles = tiles_of([(20, 33)], 16)[0][:4]
        paged_prefill(
            q, keys, values, out, tables, tiles, scale=1.0, window=window, query_tile=16
        )
        known = (x.view(-1, 1, 16)[:53] for x in (keys, values))
        exact = exactly(q, *known, 20, 1.0, window)
        assert error(out, exact) < 1e-4, (shift, window)
"""


@pytest.mark.parametrize("program", [GATHERED, IN_BULK, LARGE_SCORES])
def test_chunks_attend_to_all_before_them(interpret, program):
    interpret(SETUP + program)
