"""Cosines and sines of a step's positions in one launch."""

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


@triton.jit
def _rotation_kernel(
    positions, inv_freq, cos, sin, scale, HALF: tl.constexpr, PADDED: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED)
    inside = channel < HALF
    frequency = tl.load(inv_freq + channel, mask=inside, other=0.0)
    if OVERLAP:
        follow()
    angle = tl.load(positions + row).to(tl.float32) * frequency
    kind = cos.dtype.element_ty
    turn, swing = (tl.cos(angle) * scale).to(kind), (tl.sin(angle) * scale).to(kind)
    at = row * (2 * HALF) + channel
    tl.store(cos + at, turn, mask=inside)
    tl.store(cos + at + HALF, turn, mask=inside)
    tl.store(sin + at, -swing, mask=inside)
    tl.store(sin + at + HALF, swing, mask=inside)


def rotation_of(
    positions: Tensor, inv_freq: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``cos`` and ``sin`` of the angles, each for both halves of the channels.

    Args:
        positions: ``[tokens]`` int64.
        inv_freq: ``[rotary_dim / 2]`` float32 radians a position.
        scale: Of both.
        dtype: Of the results; angles are float32.

    Returns:
        ``[tokens, 1, rotary_dim]`` twice; the sines of the first half are negative.
    """
    half = inv_freq.shape[0]
    shape = (positions.shape[0], 1, 2 * half)
    cos = torch.empty(shape, dtype=dtype, device=positions.device)
    sin = torch.empty(shape, dtype=dtype, device=positions.device)
    _rotation_kernel[(positions.shape[0],)](
        positions,
        inv_freq,
        cos,
        sin,
        scale,
        HALF=half,
        PADDED=triton.next_power_of_2(half),
        num_warps=1,
        **launch_options(positions.device),
    )
    return cos, sin
