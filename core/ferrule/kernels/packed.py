"""Products of a few rows with packed weights, which are unpacked in registers.

The matrix is the first operand of the tensor cores, as in ``skinny``. Few rows of x: codes are
multiplied as they are, which bfloat16 holds exactly, and a group's scale meets the sums of its
products in float32. More rows: scaling each weight costs less than scaling each sum.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.overlap import launch_options, shared_memory
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import TILE, PlaneLayout, Planes
from ferrule.kernels.planes import chunk_codes, chunk_scales, chunk_tops, field
from ferrule.kernels.product_tile import (
    counters_of,
    hand_over,
    matrix_rows,
    store_tile,
    take_over,
)
from ferrule.kernels.unpack import scaled_codes


# Specialised for row counts that 16 divides, it would be compiled anew while serving.
@triton.jit(do_not_specialize=["num_rows", "out_stride"])
def _packed_kernel(
    x,
    low,
    high,
    scale,
    minimum,
    top,
    bias,
    added,
    out,
    partials,
    counters,
    num_rows,
    num_out,
    num_in,
    num_units,
    x_stride,
    out_stride,
    LAYOUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    SCALES_FIRST: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    GROUP: tl.constexpr = field(LAYOUT, "group")
    HAS_TOPS: tl.constexpr = field(LAYOUT, "has_tops")
    HAS_MINIMUM: tl.constexpr = field(LAYOUT, "has_minimum")
    CHUNKS: tl.constexpr = field(LAYOUT, "chunks_of_unit")
    TYPE: tl.constexpr = x.dtype.element_ty
    tile, split = tl.program_id(0), tl.program_id(1)
    row = matrix_rows(tile, num_out, BLOCK_N, GATED)
    member = tl.arange(0, BLOCK_M)
    is_member = (member < num_rows)[None, :]
    in_group = tl.arange(0, GROUP)[:, None]
    x_at = x + member[None, :] * x_stride + in_group
    num_chunks = num_units * CHUNKS
    share = tl.cdiv(num_units, SPLITS)
    begin = split * share
    end = tl.minimum(begin + share, num_units)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if OVERLAP:
        # Norms and attention, whose few programs find room, may come early. This kernel itself
        # never does: programs of it that came early would be dealt out unevenly.
        tl.extra.cuda.gdc_launch_dependents()
    # Said of the loop, it holds for loads of scales too.
    for unit in tl.range(begin, end, UNITS, num_stages=STAGES):
        for number in tl.static_range(UNITS * CHUNKS):
            chunk = unit * CHUNKS + number
            if HAS_TOPS:
                if number * GROUP * 4 % 256 == 0:
                    of_scale, of_minimum = chunk_tops(top, row, chunk, num_chunks, LAYOUT)
            else:
                of_scale, of_minimum = 0.0, 0.0
            s0, s1, s2, s3, m0, m1, m2, m3 = chunk_scales(
                scale, minimum, of_scale, of_minimum, row, chunk, num_chunks, LAYOUT, FAST
            )
            w0, w1, w2, w3 = chunk_codes(
                low, high, row, chunk, num_chunks, number % CHUNKS, LAYOUT, FAST, TYPE
            )
            for group in tl.static_range(4):
                w = w0 if group == 0 else (w1 if group == 1 else (w2 if group == 2 else w3))
                s = s0 if group == 0 else (s1 if group == 1 else (s2 if group == 2 else s3))
                m = m0 if group == 0 else (m1 if group == 1 else (m2 if group == 2 else m3))
                column = (chunk * 4 + group) * GROUP
                inside = is_member
                if not EVEN:
                    inside = inside & (column + in_group < num_in)
                b = tl.load(x_at + column, mask=inside, other=0.0)
                if SCALES_FIRST:
                    w = scaled_codes(w, s, m, HAS_MINIMUM, FAST, TYPE)
                    total = tl.dot(w, b, total, input_precision=PRECISION)
                else:
                    total += tl.dot(w, b, input_precision=PRECISION) * s[:, None]
                    if HAS_MINIMUM:
                        # Sums of x in every row, where the tensor cores keep the products' sums.
                        ones = tl.full([BLOCK_N, GROUP], 1.0, TYPE)
                        total -= tl.dot(ones, b, input_precision=PRECISION) * m[:, None]
    if SPLITS > 1:
        arrived = hand_over(total, partials, counters, tile, split, BLOCK_M, BLOCK_N, SPLITS)
        if arrived < SPLITS - 1:
            return
        total = take_over(partials, counters, tile, BLOCK_M, BLOCK_N, SPLITS)
    if HAS_BIAS:
        total += tl.load(bias + row).to(tl.float32)[:, None]
    store_tile(
        total, added, out, out_stride, tile, num_rows, num_out, BLOCK_M, BLOCK_N, GATED, ADDS
    )


def packed_product(
    x: Tensor,
    planes: Planes,
    layout: PlaneLayout,
    num_out: int,
    bias: Tensor | None = None,
    *,
    out: Tensor | None = None,
    add_to: Tensor | None = None,
    gated: bool = False,
    tiles: PackedTiles,
) -> Tensor:
    """``x @ weight.T + bias`` for few rows.

    Args:
        x: ``[rows, in]``, contiguous within a row; at most 64 rows.
        planes: The matrix.
        layout: Of the planes.
        num_out: Its rows.
        bias: ``[out]``, contiguous.
        out: ``[rows, out]``, contiguous within a row: takes the result.
        add_to: Like ``out``: added to the product; takes the result.
        gated: The matrix holds gates above and ups below; gives ``silu(gate) * up``.
        tiles: How to cut.

    Returns:
        ``[rows, out]``, or half as wide if gated, in x's type; sums are float32.
    """
    num_rows, num_in = x.shape
    assert x.stride(1) == 1
    assert not (gated and add_to is not None)
    out = add_to if add_to is not None else out
    if out is None:
        out = torch.empty(num_rows, num_out // (1 + gated), dtype=x.dtype, device=x.device)
    block_m = max(8, triton.next_power_of_2(num_rows))
    num_tiles = triton.cdiv(num_out, tiles.block_n)
    num_units = layout.padded(num_in) // layout.unit
    # A share is a whole number of steps, or the last step would run into the next one's.
    units = tiles.units if num_units % (tiles.units * tiles.splits) == 0 else 1
    partials = out
    if tiles.splits > 1:
        shape = (num_tiles * tiles.splits, tiles.block_n * block_m)
        partials = torch.empty(shape, dtype=torch.float32, device=x.device)
    _packed_kernel[(num_tiles, tiles.splits)](
        x,
        *planes,
        bias,
        add_to,
        out,
        partials,
        counters_of(x.device, max(1 << 14, num_tiles)),
        num_rows,
        num_out,
        num_in,
        num_units,
        x.stride(0),
        out.stride(0),
        LAYOUT=layout,
        BLOCK_M=block_m,
        BLOCK_N=tiles.block_n,
        UNITS=units,
        SPLITS=tiles.splits,
        STAGES=_fitting_stages(tiles, units, layout, block_m, x),
        SCALES_FIRST=tiles.scales_first,
        EVEN=num_in % layout.unit == 0,
        HAS_BIAS=bias is not None,
        ADDS=add_to is not None,
        GATED=gated,
        FAST=x.is_cuda and x.dtype is torch.bfloat16 and not layout.has_levels,
        PRECISION="ieee" if x.dtype is torch.float32 else "tf32",
        OVERLAP=launch_options(x.device)["OVERLAP"],
        num_warps=tiles.num_warps,
    )
    return out


def _fitting_stages(
    tiles: PackedTiles, units: int, layout: PlaneLayout, block_m: int, x: Tensor
) -> int:
    """As many steps as the device has room for on chip."""
    cols = units * layout.unit
    row_bytes = layout.num_bytes(TILE, cols) // TILE
    step_bytes = tiles.block_n * row_bytes + block_m * cols * x.element_size()
    return max(1, min(tiles.num_stages, shared_memory(x.device) // step_bytes))
