"""Packed four-bit products and rows against float64 products of the gguf package's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ferrule.quantization.formats import FORMATS
from ferrule.quantization.int4_cpu import Int4Storage, int4_bytes, packs_int4

CPU = torch.device("cpu")
FOUR_BIT = ("Q4_0", "Q4_1", "Q4_K")
ROWS = (1, 3, 8, 17, 64, 127, 128, 300)


def packed(gguf_matrix, name, rows, cols):
    data, weights = gguf_matrix(name, rows, cols)
    assert packs_int4(name, cols, torch.bfloat16, CPU)
    storage = Int4Storage(rows, cols)
    # As a fused linear writes its parts.
    for start, stop in ((0, rows // 3), (rows // 3, rows)):
        storage.write(start, torch.from_numpy(data[start:stop]), FORMATS[name])
    storage.finish(gathers=True)
    return storage, torch.from_numpy(weights)


def mean_error(y, exact):
    return (y.double() - exact).square().mean().sqrt().item()


@pytest.mark.parametrize(("rows", "cols"), [(77, 256), (200, 1024)])
@pytest.mark.parametrize("name", FOUR_BIT)
def test_a_product_errs_as_that_with_bfloat16_weights_does(gguf_matrix, name, rows, cols):
    storage, weights = packed(gguf_matrix, name, rows, cols)
    torch.manual_seed(0)
    ours = dense = 0.0
    for num_rows in ROWS:
        x = torch.randn(num_rows, cols).bfloat16()
        exact = x.double() @ weights.T
        y = storage.multiply(x)
        assert y.dtype == torch.bfloat16
        assert y.shape == exact.shape
        errors = mean_error(y, exact), mean_error(F.linear(x, weights.bfloat16()), exact)
        # A single row is a small sample.
        assert errors[0] < errors[1] * (1.5 if num_rows < 8 else 1.15)
        ours, dense = ours + errors[0], dense + errors[1]
    assert ours < 1.08 * dense


@pytest.mark.parametrize("name", FOUR_BIT)
def test_rows_are_gathered_from_the_packed_codes(gguf_matrix, name):
    storage, weights = packed(gguf_matrix, name, 100, 512)
    ids = torch.tensor([[0, 99, 31], [64, 17, 0]])
    rows = storage.gather(ids)
    assert rows.shape == (2, 3, 512)
    largest = weights.abs().max().item()
    assert (rows.double() - weights[ids]).abs().max() < largest / 100
    assert torch.equal(storage.dense(), storage.gather(torch.arange(100)))


def test_bias_sum_and_leading_dimensions(gguf_matrix):
    storage, _ = packed(gguf_matrix, "Q4_K", 77, 256)
    x = torch.randn(2, 3, 256).bfloat16()
    bias, add_to = torch.randn(77).bfloat16(), torch.randn(2, 3, 77).bfloat16()
    expected = (storage.multiply(x) + bias) + add_to
    assert expected.shape == (2, 3, 77)
    assert torch.equal(storage.multiply(x, bias, add_to.clone()), expected)


def test_gated_product(gguf_matrix):
    storage, _ = packed(gguf_matrix, "Q4_0", 128, 256)
    x = torch.randn(3, 256).bfloat16()
    gate, up = storage.multiply(x).chunk(2, dim=-1)
    assert torch.allclose(storage.multiply_gated(x), F.silu(gate) * up, rtol=0.01)


@pytest.mark.parametrize("name", FOUR_BIT)
def test_bytes_are_those_of_the_tensors(gguf_matrix, name):
    storage, _ = packed(gguf_matrix, name, 100, 512)
    held = [value for value in vars(storage).values() if isinstance(value, torch.Tensor)]
    num_bytes = sum(tensor.nbytes for tensor in held)
    assert int4_bytes(100, 512) == num_bytes == 128 * 512 * 5 // 8


@pytest.mark.parametrize("name", FOUR_BIT)
def test_float32_activations_meet_exact_weights(gguf_matrix, name):
    data, weights = gguf_matrix(name, 40, 256)
    storage = FORMATS[name].allocate(40, 256, dtype=torch.float32, device=CPU)
    storage.write(0, torch.from_numpy(data), FORMATS[name])
    assert np.array_equal(storage.dense().double().numpy(), weights)
    assert FORMATS[name].allocated_bytes(40, 256, dtype=torch.float32, device=CPU) == 40 * 256 * 4
