"""The first half of adapters' low-rank products: rows times A, each row with its own adapter's.

Rows come in chunks of one adapter each (S-LoRA's and Punica's segments, arXiv 2311.03285 and
2310.18547), so that a program reads its adapter's matrices once for a tile of the tensor cores.
Their number in the grid is the most that a batch can have; programs of empty ones end at once, and
one CUDA graph does for every mix of adapters. Rows without an adapter come in chunks too, whose
slot is -1. One kernel multiplies with all A matrices of a fused product; programs share the
columns, and the last of them to finish adds up the sums in a fixed order.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import launch_options
from ferrule.kernels.product_tile import counters_of

RANK_TILE = 16
"""Pools have room for a multiple of this rank: the least that tensor cores multiply."""

_BLOCK_K = 128
_MOST_SPLITS = 16
_AT_ONCE = 4
"""Splits whose sums are read together; one by one, each read would wait for the one before."""
_PROGRAMS = 264
"""Two for each multiprocessor of an H100."""


# Specialised for how the columns happen to be split, they would be compiled anew while serving.
@triton.jit(do_not_specialize=["steps", "num_splits"])
def _shrink_kernel(
    x,
    a,
    ranks,
    chunk_slots,
    chunk_rows,
    low,
    partials,
    counters,
    num_in,
    x_stride,
    num_parts,
    max_rank,
    steps,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    AT_ONCE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    chunk, split, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if OVERLAP:
        follow()
    member = tl.arange(0, BLOCK_M)
    row = tl.load(chunk_rows + chunk * BLOCK_M + member)
    slot = tl.load(chunk_slots + chunk)
    if slot < 0:
        return
    tiles = max_rank // BLOCK_R
    part, first = tile // tiles, (tile % tiles) * BLOCK_R
    rank = tl.load(ranks + slot * num_parts + part)
    if first >= rank:
        return
    r = first + tl.arange(0, BLOCK_R)
    x_at = x + row.to(tl.int64)[:, None] * x_stride
    a_at = a + ((slot * num_parts + part) * max_rank + r).to(tl.int64)[None, :] * num_in
    total = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    begin = split * steps * BLOCK_K
    for start in range(begin, tl.minimum(begin + steps * BLOCK_K, num_in), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if EVEN:
            left = tl.load(x_at + k[None, :], mask=(row >= 0)[:, None], other=0.0)
            right = tl.load(a_at + k[:, None], mask=(r < rank)[None, :], other=0.0)
        else:
            inside = k < num_in
            left = tl.load(x_at + k[None, :], mask=(row >= 0)[:, None] & inside[None, :], other=0.0)
            right = tl.load(
                a_at + k[:, None], mask=(r < rank)[None, :] & inside[:, None], other=0.0
            )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if num_splits > 1:
        of_tile = chunk * tl.num_programs(2) + tile
        theirs = partials + of_tile * num_splits * (BLOCK_M * BLOCK_R)
        within = member[:, None] * BLOCK_R + tl.arange(0, BLOCK_R)[None, :]
        tl.store(theirs + split * (BLOCK_M * BLOCK_R) + within, total)
        # All threads' stores come before the count that announces them, and its reads after it.
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + of_tile, 1, sem="acq_rel", scope="gpu")
        if arrived < num_splits - 1:
            return
        tl.debug_barrier()
        total = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
        for others in range(0, num_splits, AT_ONCE):
            other = others + tl.arange(0, AT_ONCE)
            parts = tl.load(
                theirs + other[:, None, None] * (BLOCK_M * BLOCK_R) + within[None, :, :],
                mask=(other < num_splits)[:, None, None],
                other=0.0,
                cache_modifier=".cg",
            )
            total += tl.sum(parts, 0)
        tl.store(counters + of_tile, 0)
    at = (chunk * BLOCK_M + member) * (num_parts * max_rank)
    tl.store(low + at[:, None] + (part * max_rank + r)[None, :], total.to(low.dtype.element_ty))


def shrink(x: Tensor, a: Tensor, ranks: Tensor, chunk_slots: Tensor, chunk_rows: Tensor) -> Tensor:
    """Rows of chunks multiplied with the A matrices of their adapters.

    Args:
        x: ``[rows, in]``, contiguous within a row.
        a: ``[slots, parts, rank, in]``; the rank is a multiple of ``RANK_TILE``.
        ranks: ``[slots, parts]`` int32: how much of the rank each adapter has for each part.
        chunk_slots: ``[chunks]`` int64 adapter slots; -1: no adapter, or no rows.
        chunk_rows: ``[chunks, size]`` int64 rows; -1: none. Sizes are powers of two, 16 at least.

    Returns:
        ``[chunks, size, parts * rank]`` in x's type; undefined beyond an adapter's rank.
    """
    num_chunks, size = chunk_rows.shape
    _, num_parts, max_rank, num_in = a.shape
    num_tiles = num_parts * max_rank // RANK_TILE
    steps = triton.cdiv(num_in, _BLOCK_K)
    wanted = triton.cdiv(_PROGRAMS, num_chunks * num_parts)
    steps_each = triton.cdiv(steps, max(1, min(wanted, _MOST_SPLITS, steps)))
    splits = triton.cdiv(steps, steps_each)
    low = torch.empty(num_chunks, size, num_parts * max_rank, dtype=x.dtype, device=x.device)
    num_partials = num_chunks * num_tiles * splits * size * RANK_TILE if splits > 1 else 1
    partials = torch.empty(num_partials, dtype=torch.float32, device=x.device)
    _shrink_kernel[(num_chunks, splits, num_tiles)](
        x,
        a,
        ranks,
        chunk_slots,
        chunk_rows,
        low,
        partials,
        counters_of(x.device, max(1 << 14, num_chunks * num_tiles)),
        num_in,
        x.stride(0),
        num_parts,
        max_rank,
        steps_each,
        splits,
        BLOCK_M=size,
        BLOCK_R=RANK_TILE,
        BLOCK_K=_BLOCK_K,
        AT_ONCE=_AT_ONCE,
        EVEN=num_in % _BLOCK_K == 0,
        PRECISION=precision(x),
        num_warps=4,
        num_stages=3,
        **launch_options(x.device),
    )
    return low


def precision(x: Tensor) -> str:
    """How tensor cores multiply: float32 is for checks, and exact."""
    return "ieee" if x.dtype is torch.float32 else "tf32"
