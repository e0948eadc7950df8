"""The second half of adapters' low-rank products: what ``lora_shrink`` gives times B, added on."""

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
from ferrule.kernels.lora_shrink import RANK_TILE, precision
from ferrule.kernels.overlap import launch_options

COLUMN_TILE = 128
"""Columns of the output that a program computes."""


@triton.jit
def add_part(
    total,
    low,
    b,
    ranks,
    gains,
    biases,
    slot,
    chunk,
    part,
    column,
    is_column,
    num_out,
    num_parts,
    max_rank,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SCALES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What the chunk's adapter makes of some columns, ``[BLOCK_M, columns]`` float32."""
    rank = tl.load(ranks + slot * num_parts + part)
    at = (chunk * BLOCK_M + tl.arange(0, BLOCK_M)) * (num_parts * max_rank) + part * max_rank
    weight_row = (slot * num_out + column).to(tl.int64)
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        # What lies beyond an adapter's rank is left by another and may be anything.
        inside = r < rank
        left = tl.load(low + at[:, None] + r[None, :], mask=inside[None, :], other=0.0)
        right = tl.load(
            b + weight_row[None, :] * max_rank + r[:, None],
            mask=is_column[None, :] & inside[:, None],
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if SCALES:
        gain = tl.load(gains + slot * num_out + column, mask=is_column, other=0.0)
        bias = tl.load(biases + slot * num_out + column, mask=is_column, other=0.0)
        total = total * gain[None, :] + bias[None, :]
    return total


@triton.jit
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
    row = tl.load(chunk_rows + chunk * BLOCK_M + tl.arange(0, BLOCK_M))
    slot = tl.load(chunk_slots + chunk)
    if slot < 0:
        return
    part = tl.load(tiles + 3 * tile)
    first, last = tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    if not SCALES:  # noqa: SIM102 a constant and a number known on the device alone
        if tl.load(ranks + slot * num_parts + part) == 0:
            return
    column = first + tl.arange(0, BLOCK_N)
    is_column = column < last
    at = y + row.to(tl.int64)[:, None] * y_stride + column[None, :]
    inside = (row >= 0)[:, None] & is_column[None, :]
    total = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    total = add_part(
        total,
        low,
        b,
        ranks,
        gains,
        biases,
        slot,
        chunk,
        part,
        column,
        is_column,
        num_out,
        num_parts,
        max_rank,
        BLOCK_M,
        BLOCK_R,
        SCALES,
        PRECISION,
    )
    tl.store(at, total.to(y.dtype.element_ty), mask=inside)


def expand(
    low: Tensor,
    y: Tensor,
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
        low: What ``shrink`` gave for the same chunks.
        y: ``[rows, out]``, contiguous within a row; takes the result.
        b: ``[slots, out, rank]``, outputs of the parts one after another.
        ranks: ``[slots, parts]`` int32: how much of the rank each adapter has for each part.
        tiles: ``[tiles, 3]`` int32, of ``column_tiles``.
        chunk_slots: ``[chunks]`` int64 adapter slots; -1: nothing.
        chunk_rows: ``[chunks, size]`` int64 rows; -1: none.
        gains: ``[slots, out]`` float32 on the sums.
        biases: The same, added last.
    """
    num_chunks, size = chunk_rows.shape
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
        ranks.shape[1],
        b.shape[2],
        BLOCK_M=size,
        BLOCK_N=COLUMN_TILE,
        BLOCK_R=RANK_TILE,
        SCALES=gains is not None,
        PRECISION=precision(y),
        num_warps=4,
        **launch_options(y.device),
    )


def column_tiles(widths: list[int], device: torch.device) -> Tensor:
    """How ``expand`` cuts its output: ``[tiles, 3]`` int32 part, first and last column.

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
