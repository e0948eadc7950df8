"""Reading small integers and half floats out of packed GGUF blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def half(data: Tensor) -> Tensor:
    """Little-endian IEEE halves as floats: ``[..., 2 * n]`` uint8 -> ``[..., n]`` float32."""
    # A clone starts at offset 0 of its storage, so it is aligned whatever block it was cut from.
    return data.clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def signed(data: Tensor) -> Tensor:
    """Bytes as two's complement: ``[..., n]`` uint8 -> ``[..., n]`` int8."""
    return data.view(torch.int8)


def fields(data: Tensor, bits: int, *, runs: int = 1) -> Tensor:
    """Small unsigned integers, in the order of the weights or scales that they stand for.

    The bytes are cut into runs of equal length. A run holds the lowest field of each of its bytes,
    then the next higher field of each, and so on: ggml's way to let a vector unit unpack them.

    Args:
        data: ``[..., n]`` uint8.
        bits: Width of a field: 1, 2 or 4.
        runs: Into how many runs the bytes are cut; ``n`` of them read every byte by itself.

    Returns:
        ``[..., n * 8 // bits]`` uint8.
    """
    data, mask = data.unflatten(-1, (runs, -1)), (1 << bits) - 1
    # One operation a field: a broadcast shift is six times as slow on a CPU.
    return torch.stack([(data >> shift) & mask for shift in range(0, 8, bits)], dim=-2).flatten(-3)
