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
from ferrule.kernels.heads import load_heads, load_heads_rotated
from ferrule.kernels.overlap import launch_options


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
    turn, swing = cos + token * ROTARY, sin + token * ROTARY
    head = tl.arange(0, PADDED_HEADS)
    inside = (head < HEADS)[:, None] & (channel < DIM)[None, :]
    at = head[:, None] * DIM + channel[None, :]
    query = load_heads_rotated(
        q + token * q_stride, turn, swing, 0, head, channel, inside, DIM, ROTARY
    )
    tl.store(out + token * (HEADS * DIM) + at, query, mask=inside)
    head = tl.arange(0, PADDED_KV_HEADS)
    inside = (head < KV_HEADS)[:, None] & (channel < DIM)[None, :]
    at = head[:, None] * DIM + channel[None, :]
    place = tl.load(cache_rows + token).to(tl.int64) * (KV_HEADS * DIM)
    key = load_heads_rotated(
        k + token * k_stride, turn, swing, 0, head, channel, inside, DIM, ROTARY
    )
    tl.store(keys + place + at, key, mask=inside)
    value = load_heads(v + token * v_stride, 0, head, channel, inside, DIM)
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
    # Where there is nothing to rotate, any pointer will do.
    cos, sin = rotation or (q, q)
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
        ROTARY=0 if rotation is None else cos.shape[-1],
        PADDED_HEADS=triton.next_power_of_2(num_heads),
        PADDED_KV_HEADS=triton.next_power_of_2(kv_heads),
        PADDED_DIM=triton.next_power_of_2(dim),
        num_warps=4,
        **launch_options(q.device),
    )
    return out
