"""GGUF's first block types: 32 weights under one half-float scale, with or without a minimum.

Each function takes blocks ``[..., block_bytes]`` uint8 and gives their weights
``[..., 32]`` float32. The layouts are the structs of ggml's ``ggml-common.h``; the order of the
float operations is that of ``gguf.quants``, so results agree to the last bit. In-place arithmetic
on the fresh floats takes half the time of mixed-type products on a CPU.
"""

from __future__ import annotations

from torch import Tensor

from ferrule.quantization.gguf_bits import fields, half, signed


def q4_0(blocks: Tensor) -> Tensor:
    """``d, 16 bytes of nibbles``: weight = d * (q - 8)."""
    codes = fields(blocks[..., 2:18], 4)
    return (signed(codes) - 8).float().mul_(half(blocks[..., :2]))


def q4_1(blocks: Tensor) -> Tensor:
    """``d, m, 16 bytes of nibbles``: weight = d * q + m."""
    codes = fields(blocks[..., 4:20], 4)
    return codes.float().mul_(half(blocks[..., :2])).add_(half(blocks[..., 2:4]))


def q5_0(blocks: Tensor) -> Tensor:
    """``d, 4 bytes of fifth bits, 16 bytes of nibbles``: weight = d * (q - 16)."""
    codes = fields(blocks[..., 6:22], 4) | (fields(blocks[..., 2:6], 1, runs=4) << 4)
    return (signed(codes) - 16).float().mul_(half(blocks[..., :2]))


def q5_1(blocks: Tensor) -> Tensor:
    """``d, m, 4 bytes of fifth bits, 16 bytes of nibbles``: weight = d * q + m."""
    codes = fields(blocks[..., 8:24], 4) | (fields(blocks[..., 4:8], 1, runs=4) << 4)
    return codes.float().mul_(half(blocks[..., :2])).add_(half(blocks[..., 2:4]))


def q8_0(blocks: Tensor) -> Tensor:
    """``d, 32 signed bytes``: weight = d * q."""
    return signed(blocks[..., 2:34]).float().mul_(half(blocks[..., :2]))
