"""Calls of the CPU's own kernels with tensors."""

from __future__ import annotations

from ctypes import CDLL

import torch
from torch import Tensor

from ferrule.kernels.host.library import host_library

KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""GGUF types with a product, by their numbers in product.c."""


def runs_host_kernels(x: Tensor) -> bool:
    """Whether a plain call works on this tensor: bfloat16, on a CPU, and with a library."""
    return (
        x.dtype is torch.bfloat16
        and not x.is_cuda
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and host_library() is not None
    )


def packed_product(
    kind: int,
    weights: Tensor,
    x: Tensor,
    bias: Tensor | None = None,
    add_to: Tensor | None = None,
    *,
    gated: bool = False,
) -> Tensor:
    """``x @ W.T + bias + add_to``, rounded to bfloat16 once, or the gate of ``x @ W.T + bias``.

    Args:
        kind: Place in ``KINDS``.
        weights: ``[out, row_bytes]`` uint8, contiguous.
        x: ``[rows, in]`` bfloat16; ``in`` is a multiple of 32.
        bias: ``[out]``.
        add_to: ``[rows, out]``, contiguous; takes the result. Not if gated.
        gated: The matrix holds gates above ups; gives ``silu(gate) * up``.

    Returns:
        ``[rows, out]``, or half as wide if gated.
    """
    assert not (gated and add_to is not None)
    x = x.contiguous()
    (out, row_bytes), (rows, cols) = weights.shape, x.shape
    y = x.new_empty(rows, out // (1 + gated)) if add_to is None else add_to
    failed = _library().ferrule_product(
        kind,
        weights.data_ptr(),
        out,
        cols,
        row_bytes,
        x.data_ptr(),
        rows,
        None if bias is None else bias.data_ptr(),
        None if add_to is None else add_to.data_ptr(),
        gated,
        y.data_ptr(),
    )
    if failed:
        raise MemoryError
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As ``layers.norm.RMSNorm``: ``[..., size] -> [..., size]``; ``size`` is a multiple of 8."""
    x = x.contiguous()
    y, size = torch.empty_like(x), x.shape[-1]
    _library().ferrule_rms_norm(
        x.data_ptr(), None, weight.data_ptr(), x.numel() // size, size, eps, None, y.data_ptr()
    )
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of ``x + residual`` and that sum."""
    x, residual = x.contiguous(), residual.contiguous()
    y, summed, size = torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    _library().ferrule_rms_norm(
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        x.numel() // size,
        size,
        eps,
        summed.data_ptr(),
        y.data_ptr(),
    )
    return y, summed


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up``: ``[..., 2 * width]``, gates first, to ``[..., width]``."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    _library().ferrule_silu_mul(x.data_ptr(), x.numel() // (2 * width), width, y.data_ptr())
    return y


def write_cache(
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_rows: Tensor,
    keys: Tensor,
    values: Tensor,
) -> None:
    """Rotates keys, and writes keys and values to their places.

    Args:
        k: ``[tokens, kv_heads, head_dim]``; only tokens may be apart.
        v: The same, as far apart.
        cos: ``[tokens, 1, rotary_dim]`` of ``layers.rope.Rotation``.
        sin: The same.
        cache_rows: ``[tokens]`` int64 places in the cache, seen as rows.
        keys: ``[blocks, block_size, kv_heads, head_dim]``.
        values: The same.
    """
    tokens, kv_heads, dim = k.shape
    _library().ferrule_write_cache(
        k.data_ptr(),
        v.data_ptr(),
        k.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        cos.shape[-1],
        cache_rows.data_ptr(),
        tokens,
        kv_heads,
        dim,
        keys.data_ptr(),
        values.data_ptr(),
    )


def attend_decode(
    q: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    tables: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    window: int | None,
) -> Tensor:
    """One query a sequence over what is in the cache, up to and with its own position.

    Args:
        q: ``[rows, heads, head_dim]``, not rotated; only rows may be apart.
        cos: ``[rows, 1, rotary_dim]``, contiguous.
        sin: The same.
        positions: ``[rows]`` int64.
        tables: ``[rows, blocks]`` int64, contiguous.
        keys: ``[blocks, block_size, kv_heads, head_dim]``.
        values: The same.
        scale: Of the scores.
        window: How many tokens back a query sees, itself included; None: all.

    Returns:
        ``[rows, heads, head_dim]``.
    """
    rows, heads, dim = q.shape
    y = torch.empty(q.shape, dtype=q.dtype)
    failed = _library().ferrule_attend(
        q.data_ptr(),
        q.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        cos.shape[-1],
        positions.data_ptr(),
        tables.data_ptr(),
        tables.shape[1],
        rows,
        heads,
        keys.shape[2],
        dim,
        keys.shape[1],
        window or 0,
        scale,
        keys.data_ptr(),
        values.data_ptr(),
        y.data_ptr(),
    )
    if failed:
        raise MemoryError
    return y


def _library() -> CDLL:
    library = host_library()
    assert library is not None, "called where runs_host_kernels says no"
    return library
