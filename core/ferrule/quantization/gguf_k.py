"""GGUF's k-quants: 256 weights in groups of 16 or 32, whose scales are quantised themselves.

Each function takes blocks ``[..., block_bytes]`` uint8 and gives their weights
``[..., 256]`` float32. The layouts are the structs of ggml's ``ggml-common.h``; the order of the
float operations is that of ``gguf.quants``, so results agree to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ferrule.quantization.gguf_bits import fields, half, signed


def q2_k(blocks: Tensor) -> Tensor:
    """``16 scales and minima of 4 bits, 64 bytes of 2-bit codes, d, dmin``; groups of 16."""
    scale = half(blocks[..., 80:82]) * (blocks[..., :16] & 15)
    minimum = half(blocks[..., 82:84]) * (blocks[..., :16] >> 4)
    codes = fields(blocks[..., 16:80], 2, runs=2)
    return _scaled(codes, scale, minimum)


def q3_k(blocks: Tensor) -> Tensor:
    """``32 bytes of high bits, 64 bytes of 2-bit codes, 12 bytes of scales, d``; groups of 16.

    A high bit that is *not* set takes 4 from the code. The scales have 6 bits: first 8 bytes of
    low nibbles, then 4 bytes of high pairs.
    """
    scale_codes = fields(blocks[..., 96:104], 4) | (fields(blocks[..., 104:108], 2) << 4)
    scale = half(blocks[..., 108:110]) * (signed(scale_codes) - 32)
    codes = fields(blocks[..., 32:96], 2, runs=2) | (fields(blocks[..., :32], 1) << 2)
    return _scaled(signed(codes) - 4, scale)


def q4_k(blocks: Tensor) -> Tensor:
    """``d, dmin, 12 bytes of scales and minima, 128 bytes of nibbles``; groups of 32."""
    codes = fields(blocks[..., 16:144], 4, runs=4)
    return _scaled(codes, *scales_and_minima(blocks[..., :16]))


def q5_k(blocks: Tensor) -> Tensor:
    """``d, dmin, 12 bytes of scales and minima, 32 of fifth bits, 128 of nibbles``; groups: 32."""
    codes = fields(blocks[..., 48:176], 4, runs=4) | (fields(blocks[..., 16:48], 1) << 4)
    return _scaled(codes, *scales_and_minima(blocks[..., :16]))


def q6_k(blocks: Tensor) -> Tensor:
    """``128 bytes of nibbles, 64 bytes of high bit pairs, 16 signed scales, d``; groups of 16."""
    codes = fields(blocks[..., :128], 4, runs=2) | (fields(blocks[..., 128:192], 2, runs=2) << 4)
    scale = half(blocks[..., 208:210]) * signed(blocks[..., 192:208])
    return _scaled(signed(codes) - 32, scale)


def _scaled(codes: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """``scale * code - minimum``, a scale a group: ``[..., 256], [..., g], [..., g]``."""
    weights = codes.float().unflatten(-1, (scale.shape[-1], -1)).mul_(scale.unsqueeze(-1))
    if minimum is not None:
        weights.sub_(minimum.unsqueeze(-1))
    return weights.flatten(-2)


def scales_and_minima(head: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and minima at the head of q4_k and q5_k: ``[..., 16] -> [..., 8]`` twice."""
    scales, minima = scale_codes(head[..., 4:])
    return half(head[..., :2]) * scales, half(head[..., 2:4]) * minima


def scale_codes(data: Tensor) -> tuple[Tensor, Tensor]:
    """The 6-bit scales and minima of q4_k and q5_k: ``[..., 12] -> [..., 8]`` twice, uint8.

    Bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3 in their low six bits; bytes 8-11 hold the
    low nibbles of scales 4-7 (low half) and of minima 4-7 (high half), whose upper two bits fill up
    the first eight bytes.
    """
    first, second, nibbles = data.unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat([first & 63, (nibbles & 15) | ((first >> 2) & 48)], dim=-1)
    minima = torch.cat([second & 63, (nibbles >> 4) | ((second >> 2) & 48)], dim=-1)
    return scales, minima
