"""GGUF's non-linear 4-bit types: a code picks one of 16 levels, dense near zero.

Layouts are the structs of ggml's ``ggml-common.h``; the order of the float operations is that of
``gguf.quants``, so results agree to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ferrule.quantization.gguf_bits import fields, half, signed

# ggml's kvalues_iq4nl.
_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(blocks: Tensor) -> Tensor:
    """``d, 16 bytes of nibbles``: ``[..., 18] -> [..., 32]``."""
    return _levels(fields(blocks[..., 2:18], 4)).mul_(half(blocks[..., :2]))


def iq4_xs(blocks: Tensor) -> Tensor:
    """``d, 2 + 4 bytes of 6-bit scales, 128 bytes of nibbles``: ``[..., 136] -> [..., 256]``.

    Groups of 32; the scales' high pairs come first, then their low nibbles.
    """
    high = fields(blocks[..., 2:4], 2, runs=2)
    low = fields(blocks[..., 4:8], 4, runs=4)
    scale = half(blocks[..., :2]) * (signed(low | (high << 4)) - 32)
    levels = _levels(fields(blocks[..., 8:136], 4, runs=8))
    return levels.unflatten(-1, (8, 32)).mul_(scale.unsqueeze(-1)).flatten(-2)


def _levels(codes: Tensor) -> Tensor:
    """Codes 0-15 to levels, element by element, as float32."""
    table = torch.tensor(_LEVELS, dtype=torch.float32, device=codes.device)
    return table[codes.int()]
