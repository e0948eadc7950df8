"""Matrices in the file's own bytes: products and rows against the gguf package in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ferrule.kernels.host.library import host_library
from ferrule.kernels.host.ops import KINDS
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed_cpu import CpuPackedStorage

pytestmark = pytest.mark.skipif(host_library() is None, reason="no compiler, or another CPU")
CPU = torch.device("cpu")


@pytest.fixture
def packed(fill):
    """``packed("Q4_K", rows, cols)``: a random matrix and its exact weights."""

    def make(name, rows, cols):
        storage = FORMATS[name].allocate(rows, cols, dtype=torch.bfloat16, device=CPU)
        assert isinstance(storage, CpuPackedStorage)
        return storage, fill(storage, name)

    return make


@pytest.mark.parametrize(("rows", "cols"), [(77, 256), (203, 1280)])
@pytest.mark.parametrize("name", KINDS)
def test_a_product_errs_less_than_that_with_bfloat16_weights(
    packed, product_errors, name, rows, cols
):
    for _, ours, dense in product_errors(*packed(name, rows, cols)):
        assert ours < 0.95 * dense


@pytest.mark.parametrize("name", KINDS)
def test_each_weight_is_multiplied_at_its_place(packed, name):
    storage, weights = packed(name, 40, 256)
    y = storage.multiply(torch.eye(256).bfloat16()[:120])
    # To a rounding that may fall on the other side.
    assert torch.allclose(y.double(), weights[:, :120].T, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_rows_of_some_blocks_of_32(packed, name):
    storage, weights = packed(name, 9, 96)
    x = torch.randn(2, 96).bfloat16()
    assert torch.allclose(storage.multiply(x).double(), x.double() @ weights.T, rtol=0.01, atol=0.1)


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_gathered_from_the_packed_bytes(packed, name):
    storage, weights = packed(name, 100, 512)
    ids = torch.tensor([[0, 99, 31], [64, 17, 0]])
    assert torch.equal(storage.gather(ids), weights[ids].bfloat16())
    assert torch.equal(storage.dense(), weights.bfloat16())


@pytest.mark.parametrize("num_rows", [3, 130])
def test_bias_sum_gate_and_leading_dimensions(packed, num_rows):
    storage, _ = packed("Q4_K", 78, 256)
    x = torch.randn(2, num_rows, 256).bfloat16()
    bias, add_to = torch.randn(78).bfloat16(), torch.randn(2, num_rows, 78).bfloat16()
    expected = (storage.multiply(x) + bias) + add_to
    assert expected.shape == (2, num_rows, 78)
    found = storage.multiply(x, bias, add_to.clone())
    assert torch.allclose(found, expected, rtol=0.02, atol=0.2)
    gate, up = storage.multiply(x).chunk(2, dim=-1)
    assert torch.allclose(storage.multiply_gated(x), F.silu(gate) * up, rtol=0.01)


def test_what_is_not_finite_stays_so(packed):
    storage, _ = packed("Q4_1", 8, 64)
    for value in (float("nan"), float("inf")):
        x = torch.zeros(1, 64).bfloat16()
        x[0, 40] = value
        assert not storage.multiply(x).isfinite().any()
    assert torch.equal(
        storage.multiply(torch.zeros(1, 64).bfloat16()), torch.zeros(1, 8).bfloat16()
    )


@pytest.mark.parametrize("name", KINDS)
def test_bytes_are_the_files(gguf_matrix, name):
    told = FORMATS[name].allocated_bytes(100, 512, dtype=torch.bfloat16, device=CPU)
    assert told == 100 * FORMATS[name].row_bytes(512)
    exact = FORMATS[name].allocated_bytes(100, 512, dtype=torch.float32, device=CPU)
    assert exact == 100 * 512 * 4
