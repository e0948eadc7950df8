"""One tile of a product of a few rows with packed weights, which are unpacked in registers.

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

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.overlap import shared_memory
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import TILE, PlaneLayout
from ferrule.kernels.planes import chunk_codes, chunk_scales, chunk_tops, field
from ferrule.kernels.product_tile import hand_over, matrix_rows, store_tile, take_over
from ferrule.kernels.unpack import scaled_codes


@triton.jit
def packed_tile(
    tile,
    split,
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
):
    """Multiplies a split of a tile's columns; the last of the splits writes the tile."""
    GROUP: tl.constexpr = field(LAYOUT, "group")
    HAS_TOPS: tl.constexpr = field(LAYOUT, "has_tops")
    HAS_MINIMUM: tl.constexpr = field(LAYOUT, "has_minimum")
    CHUNKS: tl.constexpr = field(LAYOUT, "chunks_of_unit")
    TYPE: tl.constexpr = x.dtype.element_ty
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
    is_last = True
    if SPLITS > 1:
        arrived = hand_over(total, partials, counters, tile, split, BLOCK_M, BLOCK_N, SPLITS)
        is_last = arrived == SPLITS - 1
    if is_last:
        if SPLITS > 1:
            total = take_over(partials, counters, tile, BLOCK_M, BLOCK_N, SPLITS)
        if HAS_BIAS:
            total += tl.load(bias + row).to(tl.float32)[:, None]
        store_tile(
            total, added, out, out_stride, tile, num_rows, num_out, BLOCK_M, BLOCK_N, GATED, ADDS
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a product with one matrix is launched.

    Attributes:
        num_tiles: Tiles of the matrix's rows.
        num_units: Units of its columns.
        block_m: Rows of x, with those that pad.
        constants: What a kernel is compiled for: all but BLOCK_M that a matrix decides.
        partials: Room for the sums of splits; None: there are none.
        precision: Of products in the tensor cores.
    """

    num_tiles: int
    num_units: int
    block_m: int
    constants: dict[str, Any]
    partials: Tensor | None
    precision: str


def cut(x: Tensor, layout: PlaneLayout, num_out: int, tiles: PackedTiles) -> Cut:
    """Cuts ``x @ weight.T``.

    Args:
        x: ``[rows, in]``.
        layout: Of the matrix.
        num_out: Its rows.
        tiles: How to.
    """
    num_rows, num_in = x.shape
    block_m = max(8, triton.next_power_of_2(num_rows))
    num_tiles = triton.cdiv(num_out, tiles.block_n)
    num_units = layout.padded(num_in) // layout.unit
    # A share is a whole number of steps, or the last step would run into the next one's.
    units = tiles.units if num_units % (tiles.units * tiles.splits) == 0 else 1
    partials = None
    if tiles.splits > 1:
        shape = (num_tiles * tiles.splits, tiles.block_n * block_m)
        partials = torch.empty(shape, dtype=torch.float32, device=x.device)
    constants = {
        "LAYOUT": layout,
        "BLOCK_N": tiles.block_n,
        "UNITS": units,
        "SPLITS": tiles.splits,
        "STAGES": _fitting_stages(tiles, units, layout, block_m, x),
        "EVEN": num_in % layout.unit == 0,
        "FAST": x.is_cuda and x.dtype is torch.bfloat16 and not layout.has_levels,
    }
    return Cut(
        num_tiles=num_tiles,
        num_units=num_units,
        block_m=block_m,
        constants=constants,
        partials=partials,
        precision="ieee" if x.dtype is torch.float32 else "tf32",
    )


def _fitting_stages(
    tiles: PackedTiles, units: int, layout: PlaneLayout, block_m: int, x: Tensor
) -> int:
    """As many steps as the device has room for on chip."""
    cols = units * layout.unit
    row_bytes = layout.num_bytes(TILE, cols) // TILE
    step_bytes = tiles.block_n * row_bytes + block_m * cols * x.element_size()
    return max(1, min(tiles.num_stages, shared_memory(x.device) // step_bytes))
