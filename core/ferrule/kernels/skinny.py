"""Products of a few rows with a large matrix, bound by reading the matrix once.

cuBLAS's tiles are made for many rows. For a single row a program here takes a few rows of the
matrix straight into registers. For up to some dozens the matrix is the *first* operand of the
tensor cores, so that 16 rows cost what one costs; where it has too few rows to fill the device, its
columns are split over several programs, and the last of them to finish adds up their sums in a
fixed order, so results do not depend on who was faster. The device deals out small programs better
than equal shares would: a stream-K version was slower in every shape (docs/design/performance.md).
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
from ferrule.kernels.overlap import launch_options, shared_memory
from ferrule.kernels.product_tile import (
    counters_of,
    gated_pair,
    hand_over,
    matrix_rows,
    store_tile,
    take_over,
)
from ferrule.kernels.tiles import Tiles


@triton.jit
def _one_row_kernel(
    x,
    weight,
    bias,
    added,
    out,
    num_out,
    num_in,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    tile = tl.program_id(0)
    row = matrix_rows(tile, num_out, BLOCK_N, GATED)
    source = weight + row.to(tl.int64)[:, None] * num_in
    if OVERLAP:
        follow()
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in range(0, num_in, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        if EVEN:
            a = tl.load(source + column[None, :], eviction_policy="evict_first")
            b = tl.load(x + column)
        else:
            a = tl.load(source + column[None, :], mask=(column < num_in)[None, :], other=0.0)
            b = tl.load(x + column, mask=column < num_in, other=0.0)
        total += a.to(tl.float32) * b.to(tl.float32)[None, :]
    result = tl.sum(total, 1)
    if HAS_BIAS:
        result += tl.load(bias + row).to(tl.float32)
    if GATED:
        gate, up = tl.split(tl.reshape(result, [BLOCK_N // 2, 2]))
        at = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        tl.store(out + at, gated_pair(gate, up, out.dtype.element_ty), mask=at < num_out // 2)
    else:
        at = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if ADDS:
            result += tl.load(added + at, mask=at < num_out, other=0.0).to(tl.float32)
        tl.store(out + at, result.to(out.dtype.element_ty), mask=at < num_out)


# Specialised for row counts that 16 divides, it would be compiled anew while serving.
@triton.jit(do_not_specialize=["num_rows"])
def _skinny_kernel(
    x,
    weight,
    bias,
    added,
    out,
    partials,
    counters,
    num_rows,
    num_out,
    num_in,
    x_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(1)
    row = matrix_rows(tile, num_out, BLOCK_N, GATED)
    source = weight + row.to(tl.int64)[:, None] * num_in
    member = tl.arange(0, BLOCK_M)
    is_member = (member < num_rows)[None, :]
    steps = tl.cdiv(tl.cdiv(num_in, BLOCK_K), SPLITS)
    begin = split * steps * BLOCK_K
    end = tl.minimum(begin + steps * BLOCK_K, num_in)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(begin, end, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        b_at = x + member[None, :] * x_stride + column[:, None]
        if EVEN:
            a = tl.load(source + column[None, :], eviction_policy="evict_first")
            b = tl.load(b_at, mask=is_member, other=0.0)
        else:
            inside = column < end
            a = tl.load(source + column[None, :], mask=inside[None, :], other=0.0)
            b = tl.load(b_at, mask=is_member & inside[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    if SPLITS > 1:
        arrived = hand_over(total, partials, counters, tile, split, BLOCK_M, BLOCK_N, SPLITS)
        if arrived < SPLITS - 1:
            return
        total = take_over(partials, counters, tile, BLOCK_M, BLOCK_N, SPLITS)
    if HAS_BIAS:
        total += tl.load(bias + row).to(tl.float32)[:, None]
    out_stride = num_out // 2 if GATED else num_out
    store_tile(
        total, added, out, out_stride, tile, num_rows, num_out, BLOCK_M, BLOCK_N, GATED, ADDS
    )


def skinny_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    add_to: Tensor | None = None,
    gated: bool = False,
    tiles: Tiles,
) -> Tensor:
    """``x @ weight.T + bias`` for few rows.

    Args:
        x: ``[rows, in]``, contiguous within a row; at most ``MAX_ROWS`` rows.
        weight: ``[out, in]``, contiguous.
        bias: ``[out]``.
        add_to: ``[rows, out]``, contiguous: added to the product; takes the result.
        gated: The matrix holds gates above and ups below; gives ``silu(gate) * up``.
        tiles: How to cut; ``choose_tiles`` knows.

    Returns:
        ``[rows, out]``, or half as wide if gated, in x's type; sums are float32.
    """
    num_rows, num_in = x.shape
    num_out = weight.shape[0]
    assert x.stride(1) == 1
    assert add_to is None or not gated
    out = add_to
    if out is None:
        out = torch.empty(num_rows, num_out // (1 + gated), dtype=x.dtype, device=x.device)
    num_tiles = triton.cdiv(num_out, tiles.block_n)
    shared = {
        "BLOCK_N": tiles.block_n,
        "BLOCK_K": tiles.block_k,
        "EVEN": num_in % (tiles.block_k * tiles.splits) == 0,
        "HAS_BIAS": bias is not None,
        "ADDS": add_to is not None,
        "GATED": gated,
        "num_warps": tiles.num_warps,
        "num_stages": _fitting_stages(tiles, num_rows, x),
    }
    if num_rows == 1:
        _one_row_kernel[(num_tiles,)](
            x, weight, bias, add_to, out, num_out, num_in, **shared, **launch_options(x.device)
        )
        return out
    # Never overlapping: these programs are so large that a few fill a multiprocessor, and launched
    # while the kernel in front holds some they are dealt out unevenly. A step of 8 rows took 8 %
    # longer (docs/design/performance.md).
    block_m = max(16, triton.next_power_of_2(num_rows))
    partials = out
    if tiles.splits > 1:
        shape = (num_tiles * tiles.splits, tiles.block_n * block_m)
        partials = torch.empty(shape, dtype=torch.float32, device=x.device)
    _skinny_kernel[(num_tiles, tiles.splits)](
        x,
        weight,
        bias,
        add_to,
        out,
        partials,
        counters_of(x.device, max(1 << 14, num_tiles)),
        num_rows,
        num_out,
        num_in,
        x.stride(0),
        BLOCK_M=block_m,
        SPLITS=tiles.splits,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32",
        **shared,
    )
    return out


def _fitting_stages(tiles: Tiles, num_rows: int, x: Tensor) -> int:
    """As many steps as the device has room for on chip; a single row needs none."""
    if num_rows == 1:
        return tiles.num_stages
    rows = tiles.block_n + max(16, triton.next_power_of_2(num_rows))
    room = shared_memory(x.device) // (rows * tiles.block_k * x.element_size())
    return max(1, min(tiles.num_stages, room))
