"""Adapters of a gated product: their low-rank products and the gate in one pass over its output.

Apart, ``lora_expand`` would write gates and ups back for the gate's kernel to read them
again, which for many rows is most of what adapters cost.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.lora_expand import add_part
from ferrule.kernels.lora_shrink import RANK_TILE, precision
from ferrule.kernels.overlap import launch_options
from ferrule.kernels.product_tile import gated_pair


@triton.jit
def _gated_expand_kernel(
    low,
    y,
    b,
    ranks,
    chunk_slots,
    chunk_rows,
    gains,
    biases,
    out,
    width,
    y_stride,
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
    if tl.max(row, 0) < 0:
        return
    slot = tl.load(chunk_slots + chunk)
    column = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < width
    inside = (row >= 0)[:, None] & is_column[None, :]
    at = y + row.to(tl.int64)[:, None] * y_stride + column[None, :]
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    if slot >= 0:
        gate = add_part(
            gate,
            low,
            b,
            ranks,
            gains,
            biases,
            slot,
            chunk,
            0,
            column,
            is_column,
            2 * width,
            2,
            max_rank,
            BLOCK_M,
            BLOCK_R,
            SCALES,
            PRECISION,
        )
        up = add_part(
            up,
            low,
            b,
            ranks,
            gains,
            biases,
            slot,
            chunk,
            1,
            column + width,
            is_column,
            2 * width,
            2,
            max_rank,
            BLOCK_M,
            BLOCK_R,
            SCALES,
            PRECISION,
        )
    result = gated_pair(gate, up, out.dtype.element_ty)
    tl.store(out + row.to(tl.int64)[:, None] * width + column[None, :], result, mask=inside)


def expand_gated(
    low: Tensor,
    y: Tensor,
    b: Tensor,
    ranks: Tensor,
    chunk_slots: Tensor,
    chunk_rows: Tensor,
    gains: Tensor | None = None,
    biases: Tensor | None = None,
) -> Tensor:
    """``silu(gate) * up`` of gates and ups to which the rows' adapters add.

    Args:
        low: What ``shrink`` gave for the same chunks.
        y: ``[rows, 2 * width]``, contiguous within a row: gates, then ups.
        b: ``[slots, 2 * width, rank]``.
        ranks: ``[slots, 2]`` int32: how much of the rank each adapter has for gates and ups.
        chunk_slots: ``[chunks]`` int64 adapter slots; -1: rows without one.
        chunk_rows: ``[chunks, size]`` int64 rows, each row once; -1: none.
        gains: ``[slots, 2 * width]`` float32 on the sums.
        biases: The same, added last.

    Returns:
        ``[rows, width]``.
    """
    num_chunks, size = chunk_rows.shape
    num_rows, double = y.shape
    width = double // 2
    out = torch.empty(num_rows, width, dtype=y.dtype, device=y.device)
    block_n = 128 if size == RANK_TILE else 64
    _gated_expand_kernel[(triton.cdiv(width, block_n), num_chunks)](
        low,
        y,
        b,
        ranks,
        chunk_slots,
        chunk_rows,
        gains,
        biases,
        out,
        width,
        y.stride(0),
        b.shape[2],
        BLOCK_M=size,
        BLOCK_N=block_n,
        BLOCK_R=RANK_TILE,
        SCALES=gains is not None,
        PRECISION=precision(y),
        num_warps=4,
        **launch_options(y.device),
    )
    return out
