"""Rotates queries and keys, and writes keys and values into the paged cache."""

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
def _rotated(source, head, channel, is_channel, cos, sin, ROTARY: tl.constexpr, DIM: tl.constexpr):
    """``[heads, channels]`` of one token, rotated."""
    at = head[:, None] * DIM + channel[None, :]
    value = tl.load(source + at, mask=is_channel, other=0.0)
    if ROTARY > 0:
        partner = tl.where(channel < ROTARY // 2, channel + ROTARY // 2, channel - ROTARY // 2)
        partner = tl.where(channel < ROTARY, partner, channel)
        other = tl.load(source + head[:, None] * DIM + partner[None, :], mask=is_channel, other=0.0)
        wide = value.to(tl.float32) * cos[None, :] + other.to(tl.float32) * sin[None, :]
        value = wide.to(value.dtype)
    return value


@triton.jit
def _rotate_write_kernel(
    q,
    k,
    v,
    cos,
    sin,
    cache_rows,
    out,
    keys,
    values,
    q_stride,
    k_stride,
    v_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    PADDED_KV_HEADS: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED_DIM)
    if OVERLAP:
        follow()
    turn, swing = 1.0, 0.0
    if ROTARY > 0:
        is_rotated = channel < ROTARY
        turn = tl.load(cos + token * ROTARY + channel, mask=is_rotated, other=1.0).to(tl.float32)
        swing = tl.load(sin + token * ROTARY + channel, mask=is_rotated, other=0.0).to(tl.float32)
    head = tl.arange(0, PADDED_HEADS)
    inside = (head < HEADS)[:, None] & (channel < DIM)[None, :]
    at = head[:, None] * DIM + channel[None, :]
    query = _rotated(q + token * q_stride, head, channel, inside, turn, swing, ROTARY, DIM)
    tl.store(out + token * (HEADS * DIM) + at, query, mask=inside)
    head = tl.arange(0, PADDED_KV_HEADS)
    inside = (head < KV_HEADS)[:, None] & (channel < DIM)[None, :]
    at = head[:, None] * DIM + channel[None, :]
    place = tl.load(cache_rows + token).to(tl.int64) * (KV_HEADS * DIM)
    key = _rotated(k + token * k_stride, head, channel, inside, turn, swing, ROTARY, DIM)
    tl.store(keys + place + at, key, mask=inside)
    value = tl.load(v + token * v_stride + at, mask=inside, other=0.0)
    tl.store(values + place + at, value, mask=inside)


def rotate_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    cache_rows: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Puts a step's keys and values into one layer's cache and returns its queries.

    Args:
        q: ``[tokens, heads, head_dim]``, tokens at any stride, as are k and v.
        k: ``[tokens, kv_heads, head_dim]``.
        v: The same.
        rotation: cos and sin, ``[tokens, 1, rotary_dim]`` each, the sines of the first half of the
            channels negative; None: q and k are rotated already.
        cache_rows: ``[tokens]`` where each token goes in the cache seen as rows.
        keys: ``[blocks, block_size, kv_heads, head_dim]``, contiguous.
        values: The same.

    Returns:
        ``[tokens, heads, head_dim]``, contiguous.
    """
    num_tokens, num_heads, dim = q.shape
    kv_heads = k.shape[1]
    for x in (q, k, v):
        assert x.stride(1) == dim
        assert x.stride(2) == 1
    out = torch.empty(num_tokens, num_heads, dim, dtype=q.dtype, device=q.device)
    cos, sin = rotation if rotation is not None else (None, None)
    _rotate_write_kernel[(num_tokens,)](
        q,
        k,
        v,
        cos,
        sin,
        cache_rows,
        out,
        keys,
        values,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        HEADS=num_heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        ROTARY=0 if cos is None else cos.shape[-1],
        PADDED_HEADS=triton.next_power_of_2(num_heads),
        PADDED_KV_HEADS=triton.next_power_of_2(kv_heads),
        PADDED_DIM=triton.next_power_of_2(dim),
        num_warps=4,
        **launch_options(q.device),
    )
    return out
