"""Random matrices in GGUF's types, with sensible scales, and how far their products are off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ferrule.quantization.formats import FORMATS

# Where a block keeps its half-precision scales, and about how large they are for weights near 1.
_HALVES = {
    "Q4_0": {0: 0.2},
    "Q4_1": {0: 0.2, 2: -1.6},
    "Q5_0": {0: 0.1},
    "Q5_1": {0: 0.1, 2: -1.6},
    "Q8_0": {0: 0.01},
    "Q2_K": {80: 0.05, 82: 0.05},
    "Q3_K": {108: 0.02},
    "Q4_K": {0: 0.006, 2: 0.04},
    "Q5_K": {0: 0.003, 2: 0.04},
    "Q6_K": {208: 0.0003},
    "IQ4_NL": {0: 0.01},
    "IQ4_XS": {0: 0.0005},
}


def random_matrix(name: str, rows: int, cols: int, seed: int = 0):
    """Stored bytes ``[rows, row_bytes]`` and what the gguf package makes of them, as float64."""
    rng = np.random.default_rng(seed)
    kind = GGMLQuantizationType[name]
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * cols // block_size, block_bytes), dtype=np.uint8)
    for at, size in _HALVES[name].items():
        values = size * rng.uniform(0.5, 1.5, len(blocks))
        blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)
    data = blocks.reshape(rows, -1)
    return data, dequantize(data, kind).astype(np.float64)


@pytest.fixture(scope="session")
def gguf_matrix():
    """``gguf_matrix("Q4_K", rows, cols, seed=0)``: bytes and exact weights."""
    return random_matrix


@pytest.fixture(scope="session")
def fill(gguf_matrix):
    """``fill(storage, "Q4_K")`` writes a random matrix and gives its exact weights."""

    def write(storage, name):
        rows = storage.num_rows
        data, weights = gguf_matrix(name, rows, storage.num_cols)
        # As a fused linear writes its parts.
        for start, stop in ((0, rows // 3), (rows // 3, rows)):
            storage.write(start, torch.from_numpy(data[start:stop]), FORMATS[name])
        storage.finish(gathers=True)
        return torch.from_numpy(weights)

    return write


@pytest.fixture(scope="session")
def product_errors():
    """``product_errors(storage, weights)``: for products of some numbers of rows, that number, the
    storage's error and that of a product with bfloat16 weights, both against float64."""

    def measure(storage, weights):
        torch.manual_seed(0)
        for num_rows in (1, 3, 8, 17, 64, 127, 128, 300):
            x = torch.randn(num_rows, storage.num_cols).bfloat16()
            exact = x.double() @ weights.T
            y = storage.multiply(x)
            assert y.dtype == torch.bfloat16
            assert y.shape == exact.shape
            dense = F.linear(x, weights.bfloat16())
            yield num_rows, _mean_error(y, exact), _mean_error(dense, exact)

    return measure


def _mean_error(y, exact):
    return (y.double() - exact).square().mean().sqrt().item()
