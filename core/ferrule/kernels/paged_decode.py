"""Attention of one new token a sequence over the paged cache.

Keys of one sequence are split over several programs, so that a few sequences fill the device as
well (flash-decoding); a second kernel puts the parts together (parts.py). The query heads that
share a key head are the rows of one tile, so every key is read once. Where many sequences begin
with the same blocks, those are read once for all of them (shared_prefix.py). In a step of pure
decode the kernel also rotates queries and keys and writes the new token: a launch less a layer.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.heads import load_heads, load_heads_rotated
from ferrule.kernels.overlap import launch_options
from ferrule.kernels.parts import join_parts
from ferrule.kernels.shared import SharedPrefix
from ferrule.kernels.shared_prefix import PREFIX_SPLITS, attend_prefix
from ferrule.kernels.span import attend_span

_TILE = 64
# tl.dot takes no fewer rows, so this is the most query heads that may share a key head.
_ROWS = tl.constexpr(16)
_MAX_SPLITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTokens:
    """Keys and values of the rows' last tokens, which are not in the cache yet.

    Attributes:
        keys: ``[rows, kv_heads, head_dim]``, rows at any stride.
        values: The same.
        rotation: cos and sin, ``[rows, 1, rotary_dim]`` each, by which queries and keys are still
            to be rotated, the sines of the first half of the channels negative; None: they are.
        cache_rows: ``[rows]`` where each token goes in the cache seen as rows.
    """

    keys: Tensor
    values: Tensor
    rotation: tuple[Tensor, Tensor] | None
    cache_rows: Tensor


# One kernel for every number of splits: each more would be compiled before the server is ready.
@triton.jit(do_not_specialize=["all_splits"])
def _decode_kernel(
    q,
    keys,
    values,
    tables,
    lengths,
    starts,
    new_keys,
    new_values,
    cos,
    sin,
    cache_rows,
    out,
    parts,
    maxima,
    sums,
    scale,
    window,
    q_stride,
    k_stride,
    v_stride,
    table_stride,
    all_splits,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    TILE: tl.constexpr,
    WRITES: tl.constexpr,
    SHARED: tl.constexpr,
    DIRECT: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if OVERLAP:
        follow()
    length = tl.load(lengths + row).to(tl.int32)
    cache_row = tl.load(cache_rows + row).to(tl.int64)
    first = tl.maximum(length - window, 0)
    if SHARED:
        first = tl.maximum(first, tl.load(starts + row).to(tl.int32))
    num_tiles = tl.cdiv(length - first, TILE)
    tiles_a_split = tl.cdiv(num_tiles, tl.num_programs(2))
    begin = first + split * tiles_a_split * TILE
    end = tl.minimum(begin + tiles_a_split * TILE, length)

    member, channel = tl.arange(0, _ROWS), tl.arange(0, PADDED_DIM)
    inside = (member < GROUP)[:, None] & (channel < DIM)[None, :]
    cos += row * ROTARY
    sin += row * ROTARY
    query = load_heads_rotated(
        q + row * q_stride, cos, sin, head * GROUP, member, channel, inside, DIM, ROTARY
    )
    if WRITES:
        # Asked for by every program, and so together with the query, not one after the other.
        is_one = (member < 1)[:, None] & (channel < DIM)[None, :]
        key = load_heads_rotated(
            new_keys + row * k_stride, cos, sin, head, member, channel, is_one, DIM, ROTARY
        )
        value = load_heads(new_values + row * v_stride, head, member, channel, is_one, DIM)
        if (begin < end) & (end == length):
            # The program that looks at the new token writes it, before anybody reads.
            at = (cache_row * KV_HEADS + head + member[:, None]) * DIM + channel[None, :]
            tl.store(keys + at, key, mask=is_one)
            tl.store(values + at, value, mask=is_one)
            tl.debug_barrier()
    top, total, result = attend_span(
        query, keys, values, tables + row * table_stride, head, begin, end, scale, BLOCK_SIZE,
        KV_HEADS, DIM, PADDED_DIM, _ROWS, TILE, PRECISION,
    )  # fmt: skip
    query_head = (row * KV_HEADS + head) * GROUP + member
    if DIRECT:
        # A row of length 0 pads a batch: nothing was summed, and zeros come out.
        result = tl.where(total[:, None] > 0, result / tl.maximum(total, 1e-30)[:, None], 0.0)
        tl.store(
            out + query_head[:, None] * DIM + channel[None, :],
            result.to(out.dtype.element_ty),
            mask=inside,
        )
    else:
        at = query_head * all_splits + split
        tl.store(parts + at[:, None] * PADDED_DIM + channel[None, :], result, mask=inside)
        tl.store(maxima + at, top, mask=member < GROUP)
        tl.store(sums + at, total, mask=member < GROUP)


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None,
    out: Tensor | None = None,
    new: NewTokens | None = None,
    shared: SharedPrefix | None = None,
) -> Tensor:
    """Attention of each row's last token over its sequence.

    The launch depends on the number of rows alone, never on lengths, so it can be captured in a
    graph. Padding rows have length 0 and give zeros.

    Args:
        q: ``[rows, heads, head_dim]``, rows at any stride.
        keys: ``[blocks, block_size, kv_heads, head_dim]``, contiguous.
        values: The same.
        tables: ``[rows, blocks]`` int32 or int64 block ids.
        lengths: ``[rows]`` int32 or int64 tokens in the cache, the new one included.
        scale: Of the scores.
        window: How many tokens back a token sees, itself included; None: all.
        out: ``[rows, heads, head_dim]``, contiguous; None: a new one.
        new: What is still to be written and rotated; None: the cache is complete.
        shared: Blocks that many rows begin with; only without a window and without ``new``.

    Returns:
        ``[rows, heads, head_dim]``.
    """
    num_rows, num_heads, dim = q.shape
    _, block_size, kv_heads, _ = keys.shape
    group = num_heads // kv_heads
    assert group <= _ROWS.value
    assert shared is None or (window is None and new is None)
    for x in (q,) if new is None else (q, new.keys, new.values):
        assert x.stride(1) == dim
        assert x.stride(2) == 1
    splits = num_splits(num_rows * kv_heads)
    all_splits = splits + (PREFIX_SPLITS if shared is not None else 0)
    padded = max(16, triton.next_power_of_2(dim))
    if out is None:
        out = torch.empty(num_rows, num_heads, dim, dtype=q.dtype, device=q.device)
    parts = maxima = sums = out
    if all_splits > 1:
        rows = (num_rows, num_heads, all_splits)
        parts = torch.empty(*rows, padded, dtype=torch.float32, device=q.device)
        maxima = torch.empty(rows, dtype=torch.float32, device=q.device)
        sums = torch.empty(rows, dtype=torch.float32, device=q.device)
    if shared is not None:
        attend_prefix(q, keys, values, shared, parts, maxima, sums, scale=scale, first_part=splits)
    # Where there is nothing to write or to rotate, any pointer will do.
    written = new or NewTokens(keys=q, values=q, rotation=None, cache_rows=lengths)
    cos, sin = written.rotation or (q, q)
    _decode_kernel[(num_rows, kv_heads, splits)](
        q,
        keys,
        values,
        tables,
        lengths,
        lengths if shared is None else shared.starts,
        written.keys,
        written.values,
        cos,
        sin,
        written.cache_rows,
        out,
        parts,
        maxima,
        sums,
        scale,
        2**30 if window is None else window,
        q.stride(0),
        written.keys.stride(0),
        written.values.stride(0),
        tables.stride(0),
        all_splits,
        BLOCK_SIZE=block_size,
        KV_HEADS=kv_heads,
        GROUP=group,
        DIM=dim,
        PADDED_DIM=padded,
        ROTARY=0 if written.rotation is None else cos.shape[-1],
        TILE=_TILE,
        WRITES=new is not None,
        SHARED=shared is not None,
        DIRECT=all_splits == 1,
        PRECISION="ieee" if q.dtype is torch.float32 else "tf32",
        num_warps=4,
        num_stages=3,
        **launch_options(q.device),
    )
    if all_splits > 1:
        most = _MAX_SPLITS + (PREFIX_SPLITS if shared is not None else 0)
        join_parts(
            parts,
            maxima,
            sums,
            out,
            num_splits=splits,
            most_splits=triton.next_power_of_2(most),
            starts=None if shared is None else shared.starts,
        )
    return out


def num_splits(num_tiles: int) -> int:
    """Parts of each sequence: enough programs to fill some 130 multiprocessors twice over.

    Args:
        num_tiles: Rows times key heads.
    """
    wanted = triton.cdiv(2 * 132, num_tiles)
    return min(_MAX_SPLITS, triton.next_power_of_2(wanted))
