"""k-quants by round trip through the gguf package, and against what a naive quantiser loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ferrule.quantization.gguf_bits import fields
from ferrule.quantize.k_quants import packed, q4_k, q5_k, q6_k

# What llama.cpp's own quantiser loses on normal weights, about: its error in parts of the weights'
# standard deviation.
KINDS = {"Q4_K": (q4_k, 4, 0.074), "Q5_K": (q5_k, 5, 0.038), "Q6_K": (q6_k, 6, 0.019)}


def weights(kind="normal", blocks=64):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(blocks, 256, generator=generator) * 0.02
    return {"normal": values, "cubed": values**3 * 1e3, "shifted": values + 0.01}[kind]


def written(name, blocks):
    data = KINDS[name][0](blocks).numpy()
    assert data.dtype == np.uint8
    assert data.shape[1] == GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    return torch.from_numpy(dequantize(data, GGMLQuantizationType[name]))


def error(found, expected):
    return (found - expected).square().mean().sqrt().item()


def naive(blocks, bits):
    """The largest weight of 32 gets the largest code."""
    groups, top = blocks.view(-1, 32), 2 ** (bits - 1) - 1
    scale = groups.abs().amax(-1, keepdim=True) / top
    return ((groups / scale).round() * scale).view(blocks.shape)


@pytest.mark.parametrize("kind", ["normal", "cubed", "shifted"])
@pytest.mark.parametrize("name", KINDS)
def test_less_is_lost_than_by_a_naive_quantiser(name, kind):
    blocks = weights(kind)
    assert error(written(name, blocks), blocks) < 0.9 * error(naive(blocks, KINDS[name][1]), blocks)


@pytest.mark.parametrize("name", KINDS)
def test_no_more_is_lost_than_by_the_reference(name):
    blocks = weights()
    assert error(written(name, blocks), blocks) / 0.02 < KINDS[name][2]


@pytest.mark.parametrize("name", KINDS)
def test_what_the_format_can_say_comes_back(name):
    once = written(name, weights())
    twice = written(name, once)
    assert error(twice, once) < 0.2 * error(once, weights())


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.5, -0.5])
@pytest.mark.parametrize("name", KINDS)
def test_equal_weights(name, value):
    found = written(name, torch.full((3, 256), value))
    assert found.isfinite().all()
    assert (found - value).abs().max() <= abs(value) * 0.04 + 1e-29


@pytest.mark.parametrize("name", KINDS)
def test_a_group_of_zeros_beside_others_stays_zero(name):
    blocks = weights(blocks=2)
    blocks[0, 32:64] = 0
    assert (written(name, blocks)[0, 32:64] == 0).all()


@pytest.mark.parametrize(("bits", "runs"), [(4, 4), (4, 2), (2, 2), (1, 1)])
def test_packing_undoes_unpacking(bits, runs):
    data = torch.randint(0, 256, (5, 128), dtype=torch.uint8)
    assert torch.equal(packed(fields(data, bits, runs=runs), bits, runs=runs), data)
