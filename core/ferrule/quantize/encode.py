"""Matrices into the bytes of any format that can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray
from torch import Tensor

from ferrule.quantize.k_quants import BLOCK, q4_k, q5_k, q6_k

_K_QUANTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
)
# What is searched at a time stays in a core's cache.
_PIECE = 1 << 17


def encode(weights: Tensor, name: str) -> NDArray[np.uint8]:
    """The rows of a matrix as a GGUF file keeps them.

    Args:
        weights: ``[rows, cols]`` float32 on the CPU; rows are whole blocks of the format.
        name: ``F32``, ``F16``, ``BF16`` or a block type.

    Returns:
        ``[rows, row_bytes]`` uint8.
    """
    if (function := _K_QUANTS.get(name)) is not None:
        pieces = weights.reshape(-1, BLOCK).split(_PIECE // BLOCK)
        return torch.cat([function(piece) for piece in pieces]).view(len(weights), -1).numpy()
    array = weights.numpy()
    if name in ("F32", "F16"):
        # What is beyond a half float's range becomes infinite, and is refused before.
        return array.astype("<f4" if name == "F32" else "<f2").view(np.uint8)
    return quantize(array, GGMLQuantizationType[name])
