"""Causal attention of prompt chunks over the paged cache, all chunks of a step in one launch.

A program takes a tile of one chunk's queries and one head, and walks over the keys that they may
see (flash attention, arXiv 2307.08691). Keys and values of the chunk itself are read from the
cache too, where they have been written before: so a prefix that was cached, or is computed by
another chunk of the same step, needs no path of its own.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import is_hopper, launch_options

KEY_TILE = 64
_LOG2_E = 1.4426950408889634


@triton.jit
def _attend_tiles(
    query,
    keys,
    values,
    table,
    first,
    last,
    position,
    length,
    top,
    total,
    out,
    scale,
    window,
    kv_head,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    BULK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Takes in the keys of places ``first`` to ``last``; masked: not every query sees them all."""
    channel = tl.arange(0, PADDED_DIM)
    for start in range(first, last, TILE):
        place = start + tl.arange(0, TILE)
        if BULK:
            # A tile lies within one block, and the copy engine fetches it as a whole.
            block = tl.load(table + start // BLOCK_SIZE)
            corner = block * BLOCK_SIZE + start % BLOCK_SIZE
            key = tl.trans(keys.load([corner, kv_head * DIM]))
        else:
            block = tl.load(table + place // BLOCK_SIZE, mask=place < length, other=0)
            row = block.to(tl.int64) * BLOCK_SIZE + place % BLOCK_SIZE
            at = (row * KV_HEADS + kv_head) * DIM
            key = tl.load(
                keys + at[None, :] + channel[:, None], mask=(channel < DIM)[:, None], other=0.0
            )
        scores = tl.dot(query, key, input_precision=PRECISION)
        if MASKED:
            seen = place[None, :] <= position[:, None]
            if WINDOWED:
                seen = seen & (place[None, :] > position[:, None] - window)
            scores = tl.where(seen, scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        if WINDOWED:
            # A query whose window begins later has seen nothing yet.
            weights = tl.where(seen, weights, 0.0)
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None]
        if BULK:
            value = values.load([corner, kv_head * DIM])
        else:
            value = tl.load(
                values + at[:, None] + channel[None, :],
                mask=(place < length)[:, None] & (channel < DIM)[None, :],
                other=0.0,
            )
        out = tl.dot(weights.to(value.dtype), value, out, input_precision=PRECISION)
        top = higher
    return top, total, out


@triton.jit
def _prefill_kernel(
    q,
    keys,
    values,
    out,
    tables,
    tiles,
    scale,
    window,
    q_stride,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    WINDOWED: tl.constexpr,
    BULK: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        follow()
    head, tile = tl.program_id(0), tl.program_id(1)
    table = tables + tl.load(tiles + tile * 4).to(tl.int64) * table_stride
    first_row = tl.load(tiles + tile * 4 + 1).to(tl.int32)
    num_queries = tl.load(tiles + tile * 4 + 2).to(tl.int32)
    first_position = tl.load(tiles + tile * 4 + 3).to(tl.int32)
    if num_queries == 0:
        return
    kv_head = head // (HEADS // KV_HEADS)
    member, channel = tl.arange(0, QUERIES), tl.arange(0, PADDED_DIM)
    inside = (member < num_queries)[:, None] & (channel < DIM)[None, :]
    row = (first_row + member).to(tl.int64)[:, None]
    query = tl.load(q + row * q_stride + head * DIM + channel[None, :], mask=inside, other=0.0)
    # Rows that pad the tile look where its last query looks.
    position = first_position + tl.minimum(member, num_queries - 1)
    length = first_position + num_queries
    first, full = 0, 0
    if WINDOWED:
        # From ``first`` on somebody sees something, from ``full`` on nobody's window is in the way.
        first = tl.maximum(first_position - window + 1, 0) // TILE * TILE
        full = tl.minimum(tl.cdiv(tl.maximum(length - window, 0), TILE) * TILE, length)
    diagonal = tl.maximum(first_position // TILE * TILE, full)
    top = tl.full([QUERIES], -1e30, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    result = tl.zeros([QUERIES, PADDED_DIM], tl.float32)
    if WINDOWED:
        top, total, result = _attend_tiles(
            query, keys, values, table, first, full, position, length, top, total, result,
            scale, window, kv_head, BLOCK_SIZE, KV_HEADS, DIM, PADDED_DIM,
            True, True, BULK, TILE, PRECISION,
        )  # fmt: skip
    top, total, result = _attend_tiles(
        query, keys, values, table, full, diagonal, position, length, top, total, result,
        scale, window, kv_head, BLOCK_SIZE, KV_HEADS, DIM, PADDED_DIM,
        False, False, BULK, TILE, PRECISION,
    )  # fmt: skip
    top, total, result = _attend_tiles(
        query, keys, values, table, diagonal, length, position, length, top, total, result,
        scale, window, kv_head, BLOCK_SIZE, KV_HEADS, DIM, PADDED_DIM,
        True, WINDOWED, BULK, TILE, PRECISION,
    )  # fmt: skip
    result = result / total[:, None]
    # Worked out anew: kept through the loops, it would push the sums out of the registers.
    member = tl.arange(0, QUERIES)
    row = (first_row + member).to(tl.int64)[:, None]
    tl.store(
        out + row * (HEADS * DIM) + head * DIM + channel[None, :],
        result.to(out.dtype.element_ty),
        mask=(member < num_queries)[:, None] & (channel < DIM)[None, :],
    )


def paged_prefill(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    tables: Tensor,
    tiles: Tensor,
    *,
    scale: float,
    window: int | None,
    query_tile: int = 128,
    bulk: bool | None = None,
) -> None:
    """Attention of chunks' tokens over their sequences so far, themselves included.

    Args:
        q: ``[rows, heads, head_dim]``, rows at any stride; all chunks' tokens.
        keys: ``[blocks, block_size, kv_heads, head_dim]``, contiguous, the chunks' own tokens
            written already.
        values: The same. What lies behind a sequence in its last block has weight 0, but must be
            a number, for 0 times NaN is NaN: blocks are cleared when a chunk begins them.
        out: ``[rows, heads, head_dim]``, contiguous; written at the tiles' rows.
        tables: ``[slots, blocks]`` int32 block ids.
        tiles: ``[tiles, 4]`` int32 or int64: slot, row of q, number of queries (1 to
            ``query_tile``; 0: the tile pads) and position of the first. Those with the most keys
            first: they take longest.
        scale: Of the scores.
        window: How many tokens back a token sees, itself included; None: all.
        query_tile: Most queries of a tile: 64 fill the device with few tokens, 128 read less.
        bulk: Whether Hopper's copy engine fetches the keys; None: where it can.
    """
    _, num_heads, dim = q.shape
    _, block_size, kv_heads, _ = keys.shape
    assert q.stride(1) == dim
    assert q.stride(2) == 1
    padded = max(16, triton.next_power_of_2(dim))
    if bulk is None:
        bulk = is_hopper(q.device) and can_fetch_in_bulk(keys)
    sources = [keys, values]
    if bulk:
        shape = (-1, kv_heads * dim)
        sources = [TensorDescriptor.from_tensor(x.view(shape), [KEY_TILE, dim]) for x in sources]
    _prefill_kernel[(num_heads, tiles.shape[0])](
        q,
        *sources,
        out,
        tables,
        tiles,
        scale * _LOG2_E,
        0 if window is None else window,
        q.stride(0),
        tables.stride(0),
        BLOCK_SIZE=block_size,
        HEADS=num_heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        PADDED_DIM=padded,
        QUERIES=query_tile,
        TILE=KEY_TILE,
        WINDOWED=window is not None,
        BULK=bulk,
        PRECISION="ieee" if q.dtype is torch.float32 else "tf32",
        num_warps=4 if q.dtype is not torch.float32 else 8,
        # Two tiles of keys and values beside the queries fill what other devices have on chip.
        num_stages=2 if is_hopper(q.device) else 1,
        **launch_options(q.device),
    )


def can_fetch_in_bulk(keys: Tensor) -> bool:
    """Whether tiles of keys are boxes as the copy engine takes them, each within a block."""
    _, block_size, _, dim = keys.shape
    is_power = dim & (dim - 1) == 0 and dim >= 16
    return block_size % KEY_TILE == 0 and is_power and keys.dtype is not torch.float32
