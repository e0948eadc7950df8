"""Heads of one row as a tile, rotated if wished; for other kernels to call."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_heads(source, head, member, channel, inside, DIM: tl.constexpr):
    """``[heads, channels]`` of one row: heads ``head + member``."""
    return tl.load(
        source + (head + member)[:, None] * DIM + channel[None, :], mask=inside, other=0.0
    )


@triton.jit
def load_heads_rotated(
    source, cos, sin, head, member, channel, inside, DIM: tl.constexpr, ROTARY: tl.constexpr
):
    """The same, rotated; ``cos`` and ``sin`` point to the row's angles."""
    value = load_heads(source, head, member, channel, inside, DIM)
    if ROTARY > 0:
        is_rotated = channel < ROTARY
        partner = tl.where(channel < ROTARY // 2, channel + ROTARY // 2, channel - ROTARY // 2)
        partner = tl.where(is_rotated, partner, channel)
        other = load_heads(source, head, member, partner, inside, DIM).to(tl.float32)
        turn = tl.load(cos + channel, mask=is_rotated, other=1.0).to(tl.float32)
        swing = tl.load(sin + channel, mask=is_rotated, other=0.0).to(tl.float32)
        wide = value.to(tl.float32) * turn[None, :] + other * swing[None, :]
        value = wide.to(value.dtype)
    return value
