"""Products of a few rows with a packed matrix; what a program does is in packed_tile.py."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.overlap import launch_options
from ferrule.kernels.packed_tile import cut, packed_tile
from ferrule.kernels.packed_tiles import PackedTiles
from ferrule.kernels.plane_layout import PlaneLayout, Planes
from ferrule.kernels.product_tile import counters_of


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
    if OVERLAP:
        # Norms and attention, whose few programs find room, may come early. This kernel itself
        # never does: programs of it that came early would be dealt out unevenly.
        tl.extra.cuda.gdc_launch_dependents()
    packed_tile(
        tl.program_id(0), tl.program_id(1),
        x, low, high, scale, minimum, top, bias, added, out, partials, counters,
        num_rows, num_out, num_in, num_units, x_stride, out_stride,
        LAYOUT, BLOCK_M, BLOCK_N, UNITS, SPLITS, STAGES, SCALES_FIRST, EVEN,
        HAS_BIAS, ADDS, GATED, FAST, PRECISION,
    )  # fmt: skip


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
    made = cut(x, layout, num_out, tiles)
    _packed_kernel[(made.num_tiles, tiles.splits)](
        x,
        *planes,
        bias,
        add_to,
        out,
        out if made.partials is None else made.partials,
        counters_of(x.device, max(1 << 14, made.num_tiles)),
        num_rows,
        num_out,
        num_in,
        made.num_units,
        x.stride(0),
        out.stride(0),
        **made.constants,
        BLOCK_M=made.block_m,
        SCALES_FIRST=tiles.scales_first,
        HAS_BIAS=bias is not None,
        ADDS=add_to is not None,
        GATED=gated,
        PRECISION=made.precision,
        OVERLAP=launch_options(x.device)["OVERLAP"],
        num_warps=tiles.num_warps,
    )
    return out
