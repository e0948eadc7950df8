"""The gate of a feed-forward network, for many rows."""

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

_BLOCK = 1024


@triton.jit
def _gated_kernel(x, out, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    if OVERLAP:
        follow()
    gate = tl.load(x + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=inside, other=0.0)
    gate = (gate / (1 + tl.exp(-gate))).to(up.dtype)
    tl.store(out + row * width + column, gate * up, mask=inside)


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up``: ``[rows, 2 * width]``, contiguous, gates first, to ``[rows, width]``."""
    num_rows, double = x.shape
    out = torch.empty(num_rows, double // 2, dtype=x.dtype, device=x.device)
    grid = (num_rows, triton.cdiv(double // 2, _BLOCK))
    _gated_kernel[grid](x, out, double // 2, BLOCK=_BLOCK, num_warps=4, **launch_options(x.device))
    return out
