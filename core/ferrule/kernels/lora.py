"""Low-rank products of many adapters in one batch: each row with its own adapter's matrices.

Rows come in chunks of one adapter each (S-LoRA's and Punica's segments, arXiv 2311.03285 and
2310.18547), so that a program reads its adapter's matrices once for a tile of the tensor cores.
Their number in the grid is the most that a batch can have; programs of empty ones end at once, and
one CUDA graph does for every mix of adapters. The first kernel multiplies with all A matrices of a
fused product together and splits their columns over programs; the second adds up the splits,
multiplies with B and adds to what the model's own weights gave.
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

RANK_TILE = 16
"""Pools have room for a multiple of this rank: the least that tensor cores multiply."""
COLUMN_TILE = 128
"""Columns of the output that a program of the second kernel computes."""

_MOST_SPLITS = 16
_PROGRAMS = 264
"""Two for each multiprocessor of an H100."""


# Specialised for how the columns happen to be split, they would be compiled anew while serving.
@triton.jit(do_not_specialize=["steps"])
def _shrink_kernel(
    x,
    a,
    ranks,
    chunk_slots,
    chunk_rows,
    low,
    num_in,
    x_stride,
    num_parts,
    max_rank,
    steps,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    chunk, split, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if OVERLAP:
        follow()
    slot = tl.load(chunk_slots + chunk)
    if slot < 0:
        return
    tiles = max_rank // BLOCK_R
    part, first = tile // tiles, (tile % tiles) * BLOCK_R
    rank = tl.load(ranks + slot * num_parts + part)
    if first >= rank:
        return
    member = tl.arange(0, BLOCK_M)
    row = tl.load(chunk_rows + chunk * BLOCK_M + member)
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
    width = num_parts * max_rank
    place = (split * tl.num_programs(0) + chunk) * BLOCK_M + member
    tl.store(low + place[:, None] * width + (part * max_rank + r)[None, :], total)


@triton.jit(do_not_specialize=["num_splits"])
def _expand_kernel(
    low,
    b,
    ranks,
    tiles,
    chunk_slots,
    chunk_rows,
    gains,
    biases,
    y,
    num_out,
    y_stride,
    num_parts,
    max_rank,
    num_splits,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SCALES: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    tile, chunk = tl.program_id(0), tl.program_id(1)
    if OVERLAP:
        follow()
    slot = tl.load(chunk_slots + chunk)
    if slot < 0:
        return
    part = tl.load(tiles + 3 * tile)
    first, last = tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    rank = tl.load(ranks + slot * num_parts + part)
    if not SCALES:  # noqa: SIM102 a constant and a number known on the device alone
        if rank == 0:
            return
    column = first + tl.arange(0, BLOCK_N)
    is_column = column < last
    member = tl.arange(0, BLOCK_M)
    row = tl.load(chunk_rows + chunk * BLOCK_M + member)
    width = num_parts * max_rank
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        left = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
        for split in range(0, num_splits):
            place = (split * tl.num_programs(1) + chunk) * BLOCK_M + member
            left += tl.load(low + place[:, None] * width + (part * max_rank + r)[None, :])
        right = tl.load(
            b + (slot * num_out + column).to(tl.int64)[None, :] * max_rank + r[:, None],
            mask=is_column[None, :] & (r < rank)[:, None],
            other=0.0,
        )
        left = left.to(b.dtype.element_ty)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    at = y + row.to(tl.int64)[:, None] * y_stride + column[None, :]
    inside = (row >= 0)[:, None] & is_column[None, :]
    total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if SCALES:
        gain = tl.load(gains + slot * num_out + column, mask=is_column, other=0.0)
        bias = tl.load(biases + slot * num_out + column, mask=is_column, other=0.0)
        total = total * gain[None, :] + bias[None, :]
    tl.store(at, total.to(y.dtype.element_ty), mask=inside)


def add_low_rank(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    ranks: Tensor,
    tiles: Tensor,
    chunk_slots: Tensor,
    chunk_rows: Tensor,
    gains: Tensor | None = None,
    biases: Tensor | None = None,
) -> None:
    """Adds to rows of ``y`` the low-rank products of their adapters, then scales them if asked to.

    Args:
        x: ``[rows, in]``, contiguous within a row.
        y: ``[rows, out]``, contiguous within a row; takes the result.
        a: ``[slots, parts, rank, in]``; the rank is a multiple of ``RANK_TILE``.
        b: ``[slots, out, rank]``, outputs of the parts one after another.
        ranks: ``[slots, parts]`` int32: how much of the rank each adapter has for each part.
        tiles: ``[tiles, 3]`` int32, of ``column_tiles``.
        chunk_slots: ``[chunks]`` int64 adapter slots; -1: nothing.
        chunk_rows: ``[chunks, size]`` int64 rows; -1: none. Sizes are powers of two, 16 at least.
        gains: ``[slots, out]`` float32 on the sums.
        biases: The same, added last.
    """
    num_chunks, size = chunk_rows.shape
    _, num_parts, max_rank, num_in = a.shape
    num_tiles = num_parts * max_rank // RANK_TILE
    block_k = 128 if size == RANK_TILE else 64
    steps = triton.cdiv(num_in, block_k)
    wanted = triton.cdiv(_PROGRAMS, num_chunks * num_parts)
    steps_each = triton.cdiv(steps, max(1, min(wanted, _MOST_SPLITS, steps)))
    splits = triton.cdiv(steps, steps_each)
    shape = (splits, num_chunks, size, num_parts * max_rank)
    low = torch.empty(shape, dtype=torch.float32, device=x.device)
    settings = {
        "BLOCK_M": size,
        "BLOCK_R": RANK_TILE,
        "PRECISION": "ieee" if x.dtype is torch.float32 else "tf32",
        **launch_options(x.device),
    }
    _shrink_kernel[(num_chunks, splits, num_tiles)](
        x,
        a,
        ranks,
        chunk_slots,
        chunk_rows,
        low,
        num_in,
        x.stride(0),
        num_parts,
        max_rank,
        steps_each,
        BLOCK_K=block_k,
        EVEN=num_in % block_k == 0,
        num_warps=4,
        num_stages=3,
        **settings,
    )
    _expand_kernel[(tiles.shape[0], num_chunks)](
        low,
        b,
        ranks,
        tiles,
        chunk_slots,
        chunk_rows,
        gains,
        biases,
        y,
        b.shape[1],
        y.stride(0),
        num_parts,
        max_rank,
        splits,
        BLOCK_N=COLUMN_TILE,
        SCALES=gains is not None,
        num_warps=4,
        **settings,
    )


def column_tiles(widths: list[int], device: torch.device) -> Tensor:
    """How the second kernel cuts its output: ``[tiles, 3]`` int32 part, first and last column.

    Args:
        widths: Outputs of each part.
        device: Where the kernel runs.
    """
    tiles: list[tuple[int, int, int]] = []
    start = 0
    for part, width in enumerate(widths):
        end = start + width
        tiles += [(part, first, end) for first in range(start, end, COLUMN_TILE)]
        start = end
    return torch.tensor(tiles, dtype=torch.int32, device=device)
