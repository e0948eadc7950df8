"""Attention with blocks that many rows begin with, in Triton's interpreter, against float64."""

from __future__ import annotations

SETUP = """
from ferrule.kernels import paged_decode as decode, shared_prefix
from ferrule.kernels.paged_decode import paged_decode
from ferrule.kernels.shared import SharedPrefix

# The interpreter is slow, and small tiles show all that large ones do.
shared_prefix._TILE, shared_prefix._QUERIES, decode._TILE = 16, 16, 16
decode._MAX_SPLITS = 2

def check(heads, kv_heads, dim, block_size, num_shared, owns, *, splits, dtype):
    # owns: for each row the number of tokens that are its own, and whether it shares; 0 pads.
    shared_prefix.PREFIX_SPLITS = decode.PREFIX_SPLITS = splits
    prefix = num_shared * block_size
    lengths = [own + prefix if shares else own for own, shares in owns]
    num_blocks = -(-max(lengths) // block_size)
    tables = torch.randperm(len(owns) * num_blocks).view(len(owns), num_blocks).int()
    for row, (_, shares) in enumerate(owns):
        if shares:
            tables[row, :num_shared] = tables[-1, :num_shared]
    shape = (len(owns) * num_blocks, block_size, kv_heads, dim)
    keys, values = (torch.full(shape, torch.nan, dtype=dtype) for _ in range(2))
    places = []
    for row, length in enumerate(lengths):
        at = torch.arange(length)
        places.append(tables[row, at // block_size].long() * block_size + at % block_size)
    for rows in places:
        keys.view(-1, kv_heads, dim)[rows] = torch.randn(len(rows), kv_heads, dim).to(dtype)
        values.view(-1, kv_heads, dim)[rows] = torch.randn(len(rows), kv_heads, dim).to(dtype)
    q = torch.randn(len(owns), heads + 2, dim).to(dtype)[:, :heads]
    given = SharedPrefix(
        starts=torch.tensor([prefix if shares else 0 for _, shares in owns]),
        table=tables[-1].clone(),
        length=torch.tensor([prefix]),
    )
    out = paged_decode(
        q, keys, values, tables, torch.tensor(lengths), scale=0.3, window=None, shared=given
    )
    for row, rows in enumerate(places):
        if not len(rows):
            assert not out[row].any(), "a padding row"
            continue
        k, v = (x.view(-1, kv_heads, dim)[rows].double() for x in (keys, values))
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        scores = torch.einsum("hd,khd->hk", q[row].double(), k) * 0.3
        exact = torch.einsum("hk,khd->hd", scores.softmax(-1), v)
        assert error(out[row], exact) < (1e-5 if dtype is torch.float32 else 2e-3), (row, owns)
"""

PROGRAM = """
some = [(5, True), (20, False), (1, True), (0, False), (33, True)]
check(4, 2, 16, 8, 5, some, splits=2, dtype=torch.float32)
check(6, 2, 24, 5, 3, some, splits=4, dtype=torch.float16)
check(3, 3, 16, 16, 9, some, splits=8, dtype=torch.float32)
# More queries than a tile takes; a prefix that is shorter than its parts are many.
check(4, 1, 16, 4, 1, [(1 + row % 3, row % 4 > 0) for row in range(15)] + [(2, True)], splits=8,
      dtype=torch.float32)
"""


def test_rows_that_share_and_rows_that_do_not(interpret):
    interpret(SETUP + PROGRAM)
