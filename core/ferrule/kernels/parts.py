"""Parts of an attention put together."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import launch_options


# One kernel for every number of splits: each more would be compiled before the server is ready.
@triton.jit(do_not_specialize=["num_splits", "all_splits"])
def _join_kernel(
    parts,
    maxima,
    sums,
    starts,
    out,
    num_splits,
    all_splits,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    SHARED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    if OVERLAP:
        follow()
    split, channel = tl.arange(0, MAX_SPLITS), tl.arange(0, PADDED_DIM)
    count = num_splits
    if SHARED:
        # The prefix's parts stand behind the row's own.
        count = tl.where(tl.load(starts + row) > 0, all_splits, num_splits)
    is_split = split < count
    at = (row * HEADS + head) * all_splits + split
    top = tl.load(maxima + at, mask=is_split, other=-1e30)
    weights = tl.exp(top - tl.max(top, 0))
    total = tl.sum(tl.load(sums + at, mask=is_split, other=0.0) * weights, 0)
    part = tl.load(
        parts + at[:, None] * PADDED_DIM + channel[None, :], mask=is_split[:, None], other=0.0
    )
    joined = tl.sum(part * weights[:, None], 0)
    joined = tl.where(total > 0, joined / tl.maximum(total, 1e-30), 0.0)
    tl.store(
        out + (row * HEADS + head) * DIM + channel,
        joined.to(out.dtype.element_ty),
        mask=channel < DIM,
    )


def join_parts(
    parts: Tensor,
    maxima: Tensor,
    sums: Tensor,
    out: Tensor,
    *,
    num_splits: int,
    most_splits: int,
    starts: Tensor | None,
) -> None:
    """Adds up the parts of each query, in their order.

    Args:
        parts: ``[rows, heads, splits, padded head_dim]`` float32: sums of weighted values.
        maxima: ``[rows, heads, splits]`` float32: the highest score of each part.
        sums: The same: the sum of the weights.
        out: ``[rows, heads, head_dim]``, contiguous; a query without a weight gets zeros.
        num_splits: How many of the splits are the rows' own.
        most_splits: A power of two that no number of splits exceeds.
        starts: ``[rows]``: not 0 for rows that take the other splits as well; None: none does.
    """
    num_rows, num_heads, dim = out.shape
    _join_kernel[(num_rows, num_heads)](
        parts,
        maxima,
        sums,
        starts,
        out,
        num_splits,
        parts.shape[2],
        HEADS=num_heads,
        DIM=dim,
        PADDED_DIM=parts.shape[3],
        MAX_SPLITS=most_splits,
        SHARED=starts is not None,
        num_warps=4,
        **launch_options(out.device),
    )
