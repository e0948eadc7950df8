"""Random GGUF blocks with small scales, and their weights as the gguf package has them."""

from __future__ import annotations

import gguf
import numpy as np
import torch

HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
"""Bytes of a block at which a float16 begins."""


def random_blocks(name, num_rows, num_cols, seed=0):
    """``[rows, row_bytes]`` uint8: all codes occur, scales of both signs are small and finite."""
    rng = np.random.default_rng(seed)
    size, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (num_rows, num_cols // size, num_bytes), dtype=np.uint8)
    for at in HALVES[name]:
        halves = rng.normal(scale=0.01, size=blocks.shape[:2]).astype("<f2")
        blocks[..., at : at + 2] = halves.view(np.uint8).reshape(*halves.shape, 2)
    return torch.from_numpy(blocks.reshape(num_rows, -1))


def exact(name, data):
    """``[rows, cols]`` float32."""
    return torch.from_numpy(gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[name]))
