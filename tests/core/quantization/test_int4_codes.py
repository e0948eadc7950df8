"""Four-bit blocks taken apart and put together again, against the gguf package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ferrule.quantization.formats import FORMATS
from ferrule.quantization.int4_codes import INT4_FORMATS, int4_codes


@pytest.mark.parametrize("name", sorted(INT4_FORMATS))
def test_codes_scales_and_zeros_give_the_weights(gguf_matrix, name):
    data, weights = gguf_matrix(name, 5, 512)
    parts = int4_codes(name, FORMATS[name].block_bytes, torch.from_numpy(data))
    assert parts.codes.shape == (5, 512)
    assert parts.scales.shape == parts.zeros.shape == (5, 16)
    assert int(parts.codes.max()) == 15
    scales, zeros = (each.repeat_interleave(32, 1) for each in (parts.scales, parts.zeros))
    ours = (parts.codes.double() - 8) * scales.double() + zeros.double()
    assert np.allclose(ours.numpy(), weights, rtol=1e-5, atol=1e-5)
