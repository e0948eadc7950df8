"""Every block type against gguf.quants, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ferrule.quantization.gguf_blocks import DEQUANTIZERS

# gguf.quants can only write these; the rest is covered by random bytes, which reach every field.
WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def reference(data: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):  # random scales are inf, NaN or overflow now and then
        return dequantize(data, GGMLQuantizationType[name])


def ours(data: np.ndarray, name: str) -> np.ndarray:
    weights = DEQUANTIZERS[name].dequantize(torch.from_numpy(data))
    assert weights.dtype == torch.float32
    return weights.numpy()


def assert_same_bits(got: np.ndarray, expected: np.ndarray):
    assert got.shape == expected.shape
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def random_bytes(name: str, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    block_bytes = DEQUANTIZERS[name].block_bytes
    return rng.integers(0, 256, (*shape[:-1], shape[-1] * block_bytes), dtype=np.uint8)


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_block_sizes_are_ggmls(name):
    block = DEQUANTIZERS[name]
    sizes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    assert (block.block_size, block.block_bytes) == sizes


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_random_bytes_dequantise_bit_equal(name):
    data = random_bytes(name, 96, 40)
    assert_same_bits(ours(data, name), reference(data, name))


@pytest.mark.parametrize("half", [0x7C00, 0xFC00, 0x7E01, 0x7BFF, 0x0001, 0x83FF, 0x8000, 0x0000])
@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_scales_at_the_corners_of_half_floats_dequantise_bit_equal(name, half):
    # All blocks have an even number of bytes, so every half in them becomes this one.
    data = random_bytes(name, 2, 3)
    data[0] = np.tile(np.array([half], dtype="<u2").view(np.uint8), data.shape[1] // 2)
    assert_same_bits(ours(data, name), reference(data, name))


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_plausible_scales_dequantise_bit_equal(name):
    data = random_bytes(name, 64, 8, seed=1)
    # A half's exponent below 16 in all bytes keeps every scale finite and of ordinary size.
    data &= 0x3B
    expected = reference(data, name)
    assert np.isfinite(expected).all()
    assert_same_bits(ours(data, name), expected)


@pytest.mark.parametrize("name", WRITABLE)
def test_quantised_weights_dequantise_bit_equal_and_close(name):
    weights = np.random.default_rng(2).normal(0, 0.02, (48, 512)).astype(np.float32)
    data = quantize(weights, GGMLQuantizationType[name])
    got = ours(data, name)
    assert_same_bits(got, reference(data, name))
    assert np.abs(got - weights).max() < 0.01


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_rows_keep_their_leading_axes_and_may_be_views(name):
    data = random_bytes(name, 4, 3, 5, seed=3)
    whole = torch.from_numpy(data)
    block = DEQUANTIZERS[name]
    assert block.dequantize(whole).shape == (4, 3, 5 * block.block_size)
    strided = whole[1::2, :, block.block_bytes : 3 * block.block_bytes]
    assert_same_bits(
        block.dequantize(strided).numpy(), reference(strided.contiguous().numpy(), name)
    )
    odd = torch.cat([torch.zeros(1, dtype=torch.uint8), whole.flatten()])[1:].view_as(whole)
    assert_same_bits(block.dequantize(odd).numpy(), reference(data, name))


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_no_rows_give_no_weights(name):
    block = DEQUANTIZERS[name]
    empty = torch.empty(0, 2 * block.block_bytes, dtype=torch.uint8)
    assert block.dequantize(empty).shape == (0, 2 * block.block_size)


@pytest.mark.parametrize("name", DEQUANTIZERS)
def test_a_row_that_ends_within_a_block_is_refused(name):
    with pytest.raises(AssertionError, match="no whole number of blocks"):
        DEQUANTIZERS[name].dequantize(torch.zeros(2, 19, dtype=torch.uint8))


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        DEQUANTIZERS["Q4_0"] = DEQUANTIZERS["Q8_0"]  # pyright: ignore
