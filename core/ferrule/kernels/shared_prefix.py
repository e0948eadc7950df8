"""Attention of many sequences' new tokens over the blocks that they all begin with, read once.

The queries of all sequences that share the blocks are the rows of large tiles, so the keys of a
long system prompt are read once for all of them rather than once for each (as in Hydragen,
arXiv 2402.05099). What comes out are parts, to be joined with those of the sequences' own tokens.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import launch_options
from ferrule.kernels.shared import SharedPrefix
from ferrule.kernels.span import attend_span

PREFIX_SPLITS = 8
"""Parts that a prefix is split into."""
_QUERIES = 64
_TILE = 64


@triton.jit(do_not_specialize=["num_rows", "first_part", "all_splits"])
def _prefix_kernel(
    q,
    keys,
    values,
    starts,
    table,
    length,
    parts,
    maxima,
    sums,
    scale,
    num_rows,
    q_stride,
    first_part,
    all_splits,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if OVERLAP:
        follow()
    query = tile * QUERIES + tl.arange(0, QUERIES)
    row, member = query // GROUP, query % GROUP
    shares = tl.load(starts + row, mask=row < num_rows, other=0) > 0
    channel = tl.arange(0, PADDED_DIM)
    inside = shares[:, None] & (channel < DIM)[None, :]
    place = row[:, None] * q_stride + (head * GROUP + member)[:, None] * DIM + channel[None, :]
    x = tl.load(q + place, mask=inside, other=0.0)
    size = tl.load(length).to(tl.int32)
    tiles_a_split = tl.cdiv(tl.cdiv(size, TILE), tl.num_programs(2))
    begin = split * tiles_a_split * TILE
    end = tl.minimum(begin + tiles_a_split * TILE, size)
    top, total, result = attend_span(
        x, keys, values, table, head, begin, end, scale, BLOCK_SIZE,
        KV_HEADS, DIM, PADDED_DIM, QUERIES, TILE, PRECISION,
    )  # fmt: skip
    at = ((row * KV_HEADS + head) * GROUP + member) * all_splits + first_part + split
    tl.store(parts + at[:, None] * PADDED_DIM + channel[None, :], result, mask=shares[:, None])
    tl.store(maxima + at, top, mask=shares)
    tl.store(sums + at, total, mask=shares)


def attend_prefix(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    shared: SharedPrefix,
    parts: Tensor,
    maxima: Tensor,
    sums: Tensor,
    *,
    scale: float,
    first_part: int,
) -> None:
    """Writes ``PREFIX_SPLITS`` parts for each query of the rows that share.

    Args:
        q: ``[rows, heads, head_dim]``, rows at any stride.
        keys: ``[blocks, block_size, kv_heads, head_dim]``, contiguous.
        values: The same.
        shared: The prefix.
        parts: ``[rows, heads, splits, padded head_dim]`` float32: sums of weighted values.
        maxima: ``[rows, heads, splits]`` float32: the highest score of each part.
        sums: The same: the sum of the weights.
        scale: Of the scores.
        first_part: Index of the first split to write.
    """
    num_rows, num_heads, dim = q.shape
    _, block_size, kv_heads, _ = keys.shape
    group = num_heads // kv_heads
    grid = (triton.cdiv(num_rows * group, _QUERIES), kv_heads, PREFIX_SPLITS)
    _prefix_kernel[grid](
        q,
        keys,
        values,
        shared.starts,
        shared.table,
        shared.length,
        parts,
        maxima,
        sums,
        scale,
        num_rows,
        q.stride(0),
        first_part,
        parts.shape[2],
        BLOCK_SIZE=block_size,
        KV_HEADS=kv_heads,
        GROUP=group,
        DIM=dim,
        PADDED_DIM=parts.shape[3],
        QUERIES=_QUERIES,
        TILE=_TILE,
        PRECISION="ieee" if q.dtype is torch.float32 else "tf32",
        num_warps=4,
        num_stages=2,
        **launch_options(q.device),
    )
