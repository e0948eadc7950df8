"""RMS normalisation, with the residual added on the way."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import launch_options


@triton.jit(do_not_specialize=["x_stride"])
def _norm_kernel(
    x,
    residual,
    weight,
    out,
    summed,
    size,
    eps,
    x_stride,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_column = column < size
    scale = tl.load(weight + column, mask=is_column, other=0.0)
    if OVERLAP:
        follow()
    value = tl.load(x + row * x_stride + column, mask=is_column, other=0.0)
    if ADDS:
        value += tl.load(residual + row * size + column, mask=is_column, other=0.0)
        tl.store(summed + row * size + column, value, mask=is_column)
    wide = value.to(tl.float32)
    mean = tl.sum(wide * wide, 0) / size
    normed = (wide * tl.rsqrt(mean + eps)).to(value.dtype)
    tl.store(out + row * size + column, normed * scale, mask=is_column)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last of two dimensions.

    Args:
        x: ``[rows, size]``, contiguous within a row.
        weight: ``[size]``, in x's type.
        eps: Added to the mean square.

    Returns:
        ``[rows, size]``.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, weight, out, None, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of ``x + residual``, and that sum.

    Args:
        x: ``[rows, size]``, contiguous within a row.
        residual: ``[rows, size]``, contiguous.
        weight: ``[size]``, in x's type.
        eps: Added to the mean square.

    Returns:
        The normed sum and the sum, ``[rows, size]`` each.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    summed = torch.empty_like(out)
    _launch(x, residual, weight, out, summed, eps)
    return out, summed


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    out: Tensor,
    summed: Tensor | None,
    eps: float,
) -> None:
    num_rows, size = x.shape
    block = triton.next_power_of_2(size)
    _norm_kernel[(num_rows,)](
        x,
        residual,
        weight,
        out,
        summed,
        size,
        eps,
        x.stride(0),
        BLOCK=block,
        ADDS=residual is not None,
        num_warps=min(16, max(1, block // 512)),
        **launch_options(x.device),
    )
