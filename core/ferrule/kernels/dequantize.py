"""Packed planes to plain numbers: whole matrices, or rows by index."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.plane_layout import PlaneLayout, Planes
from ferrule.kernels.planes import chunk_codes, chunk_scales, chunk_tops, field


@triton.jit(do_not_specialize=["num_rows"])
def _dequantize_kernel(
    low,
    high,
    scale,
    minimum,
    top,
    index,
    out,
    num_rows,
    num_cols,
    num_units,
    LAYOUT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATHERS: tl.constexpr,
    FAST: tl.constexpr,
):
    GROUP: tl.constexpr = field(LAYOUT, "group")
    CHUNKS: tl.constexpr = field(LAYOUT, "chunks_of_unit")
    TYPE: tl.constexpr = tl.bfloat16 if FAST else tl.float32
    place = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = (place < num_rows)[:, None]
    row = tl.minimum(place, num_rows - 1)
    if GATHERS:
        row = tl.load(index + row).to(tl.int32)
    num_chunks = num_units * CHUNKS
    in_group = tl.arange(0, GROUP)[None, :]
    out_at = out + place.to(tl.int64)[:, None] * num_cols + in_group
    for number in tl.static_range(CHUNKS):
        chunk = tl.program_id(0) * CHUNKS + number
        of_scale, of_minimum = 0.0, 0.0
        if field(LAYOUT, "has_tops"):
            of_scale, of_minimum = chunk_tops(top, row, chunk, num_chunks, LAYOUT)
        s0, s1, s2, s3, m0, m1, m2, m3 = chunk_scales(
            scale, minimum, of_scale, of_minimum, row, chunk, num_chunks, LAYOUT, FAST
        )
        w0, w1, w2, w3 = chunk_codes(low, high, row, chunk, num_chunks, number, LAYOUT, FAST, TYPE)
        for group in tl.static_range(4):
            w = w0 if group == 0 else (w1 if group == 1 else (w2 if group == 2 else w3))
            s = s0 if group == 0 else (s1 if group == 1 else (s2 if group == 2 else s3))
            m = m0 if group == 0 else (m1 if group == 1 else (m2 if group == 2 else m3))
            w = w.to(tl.float32) * s[:, None]
            if field(LAYOUT, "has_minimum"):
                w -= m[:, None]
            column = (chunk * 4 + group) * GROUP
            inside = is_row & (column + in_group < num_cols)
            tl.store(out_at + column, w.to(out.dtype.element_ty), mask=inside)


def dequantize(
    planes: Planes,
    layout: PlaneLayout,
    out: Tensor,
    index: Tensor | None = None,
) -> Tensor:
    """A matrix, or rows of it.

    Args:
        planes: The matrix.
        layout: Of the planes.
        out: ``[rows, cols]``, contiguous: takes the result.
        index: ``[rows]`` which; None: the first ones.

    Returns:
        ``out``.
    """
    num_rows, num_cols = out.shape
    if num_rows == 0:
        return out
    num_units = layout.padded(num_cols) // layout.unit
    block = 64 if index is None else 4
    _dequantize_kernel[(num_units, triton.cdiv(num_rows, block))](
        *planes,
        out if index is None else index,
        out,
        num_rows,
        num_cols,
        num_units,
        LAYOUT=layout,
        BLOCK_N=block,
        GATHERS=index is not None,
        # In float32 it is exact: 128 and the code are taken apart again.
        FAST=False,
        num_warps=4,
    )
    return out
