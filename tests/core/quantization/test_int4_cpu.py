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


@pytest.fixture
def packed(fill):
    """``packed("Q4_K", rows, cols)``: a random matrix and its exact weights."""

    def make(name, rows, cols):
        assert packs_int4(name, cols, torch.bfloat16, CPU)
        storage = Int4Storage(rows, cols)
        return storage, fill(storage, name)

    return make


@pytest.mark.parametrize(("rows", "cols"), [(77, 256), (200, 1024)])
@pytest.mark.parametrize("name", FOUR_BIT)
def test_a_product_errs_as_that_with_bfloat16_weights_does(
    packed, product_errors, name, rows, cols
):
    errors = list(product_errors(*packed(name, rows, cols)))
    for num_rows, ours, dense in errors:
        # A single row is a small sample.
        assert ours < dense * (1.5 if num_rows < 8 else 1.15)
    assert sum(ours for _, ours, _ in errors) < 1.08 * sum(dense for *_, dense in errors)


@pytest.mark.parametrize("name", FOUR_BIT)
def test_rows_are_gathered_from_the_packed_codes(packed, name):
    storage, weights = packed(name, 100, 512)
    ids = torch.tensor([[0, 99, 31], [64, 17, 0]])
    rows = storage.gather(ids)
    assert rows.shape == (2, 3, 512)
    largest = weights.abs().max().item()
    assert (rows.double() - weights[ids]).abs().max() < largest / 100
    assert torch.equal(storage.dense(), storage.gather(torch.arange(100)))


def test_bias_sum_and_leading_dimensions(packed):
    storage, _ = packed("Q4_K", 77, 256)
    x = torch.randn(2, 3, 256).bfloat16()
    bias, add_to = torch.randn(77).bfloat16(), torch.randn(2, 3, 77).bfloat16()
    expected = (storage.multiply(x) + bias) + add_to
    assert expected.shape == (2, 3, 77)
    assert torch.equal(storage.multiply(x, bias, add_to.clone()), expected)


def test_gated_product(packed):
    storage, _ = packed("Q4_0", 128, 256)
    x = torch.randn(3, 256).bfloat16()
    gate, up = storage.multiply(x).chunk(2, dim=-1)
    assert torch.allclose(storage.multiply_gated(x), F.silu(gate) * up, rtol=0.01)


@pytest.mark.parametrize("name", FOUR_BIT)
def test_bytes_are_those_of_the_tensors(packed, name):
    storage, _ = packed(name, 100, 512)
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
