"""Whatever is written, the gguf package reads near the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ferrule.quantize.encode import encode

# The largest error in parts of the largest weight.
NAMES = {"F32": 0, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 5e-3, "Q6_K": 0.03, "Q5_K": 0.04}
NAMES |= {"Q5_0": 0.07, "Q5_1": 0.04, "Q4_K": 0.08, "Q4_0": 0.14, "Q4_1": 0.08}


@pytest.mark.parametrize("name", NAMES)
def test_rows_come_back(name):
    weights = torch.randn(600, 512, generator=torch.Generator().manual_seed(0))
    data = encode(weights, name)
    kind = GGMLQuantizationType[name]
    size, num_bytes = GGML_QUANT_SIZES[kind]
    assert data.dtype == np.uint8
    assert data.shape == (600, 512 // size * num_bytes)
    error = np.abs(dequantize(data, kind).reshape(600, 512) - weights.numpy()).max()
    assert error <= NAMES[name] * weights.abs().max()
