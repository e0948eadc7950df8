"""Products of a few rows with two matrices of different types side by side, by one launch.

Q4_K_M keeps v in Q6_K and q and k in Q4_K. Behind each other the second, small as it is, costs what
any launch of these kernels costs before its first weights arrive and after its last.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.overlap import launch_options
from ferrule.kernels.packed_tile import cut, packed_tile
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import PlaneLayout, Planes
from ferrule.kernels.product_tile import counters_of


# Row counts and strides are not specialised, nor does a program come early: as in packed.py.
@triton.jit(do_not_specialize=["num_rows", "out_stride"])
def _pair_kernel(
    x,
    low,
    high,
    scale,
    minimum,
    top,
    low_2,
    high_2,
    scale_2,
    minimum_2,
    top_2,
    bias,
    out,
    partials,
    partials_2,
    counters,
    num_rows,
    num_out,
    num_out_2,
    num_in,
    num_units,
    num_units_2,
    num_tiles,
    num_tiles_2,
    x_stride,
    out_stride,
    LAYOUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNITS: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr,
    FAST: tl.constexpr,
    LAYOUT_2: tl.constexpr,
    BLOCK_N_2: tl.constexpr,
    UNITS_2: tl.constexpr,
    SPLITS_2: tl.constexpr,
    STAGES_2: tl.constexpr,
    EVEN_2: tl.constexpr,
    FAST_2: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SCALES_FIRST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    if program < num_tiles * SPLITS:
        packed_tile(
            program % num_tiles, program // num_tiles,
            x, low, high, scale, minimum, top, bias, out, out, partials, counters,
            num_rows, num_out, num_in, num_units, x_stride, out_stride,
            LAYOUT, BLOCK_M, BLOCK_N, UNITS, SPLITS, STAGES, SCALES_FIRST, EVEN,
            HAS_BIAS, False, False, FAST, PRECISION,
        )  # fmt: skip
    else:
        program -= num_tiles * SPLITS
        packed_tile(
            program % num_tiles_2, program // num_tiles_2,
            x, low_2, high_2, scale_2, minimum_2, top_2,
            bias + num_out if HAS_BIAS else bias, out, out + num_out, partials_2,
            counters + num_tiles,
            num_rows, num_out_2, num_in, num_units_2, x_stride, out_stride,
            LAYOUT_2, BLOCK_M, BLOCK_N_2, UNITS_2, SPLITS_2, STAGES_2, SCALES_FIRST, EVEN_2,
            HAS_BIAS, False, False, FAST_2, PRECISION,
        )  # fmt: skip


def packed_pair(
    x: Tensor,
    matrices: tuple[tuple[Planes, PlaneLayout, int], tuple[Planes, PlaneLayout, int]],
    bias: Tensor | None,
    out: Tensor,
    tiles: tuple[PackedTiles, PackedTiles],
) -> None:
    """``x @ weight.T + bias`` of two matrices of different types, by one launch.

    Args:
        x: ``[rows, in]``, contiguous within a row; at most 64 rows.
        matrices: Planes, their layout, and rows of each.
        bias: Of both, ``[out]``, contiguous.
        out: ``[rows, out]``, contiguous within a row: takes both results side by side.
        tiles: How to cut each; warps and the order of scaling are the same for both.
    """
    (planes, layout, num_out), (planes_2, layout_2, num_out_2) = matrices
    first, second = cut(x, layout, num_out, tiles[0]), cut(x, layout_2, num_out_2, tiles[1])
    assert x.stride(1) == 1
    assert tiles[0].num_warps == tiles[1].num_warps
    assert tiles[0].scales_first == tiles[1].scales_first
    num_programs = first.num_tiles * tiles[0].splits + second.num_tiles * tiles[1].splits
    _pair_kernel[(num_programs,)](
        x,
        *planes,
        *planes_2,
        bias,
        out,
        out if first.partials is None else first.partials,
        out if second.partials is None else second.partials,
        counters_of(x.device, max(1 << 14, first.num_tiles + second.num_tiles)),
        x.shape[0],
        num_out,
        num_out_2,
        x.shape[1],
        first.num_units,
        second.num_units,
        first.num_tiles,
        second.num_tiles,
        x.stride(0),
        out.stride(0),
        **first.constants,
        **{f"{name}_2": value for name, value in second.constants.items()},
        BLOCK_M=first.block_m,
        SCALES_FIRST=tiles[0].scales_first,
        HAS_BIAS=bias is not None,
        PRECISION=first.precision,
        OVERLAP=launch_options(x.device)["OVERLAP"],
        num_warps=tiles[0].num_warps,
    )
