"""Dense storage: what is written is what multiplies, packed or not."""

from __future__ import annotations

import pytest
import torch

from ferrule.quantization.dense import DenseStorage
from ferrule.quantization.formats import FORMATS

CPU = torch.device("cpu")


def bytes_of(weights: torch.Tensor) -> torch.Tensor:
    return weights.contiguous().view(torch.uint8).view(weights.shape[0], -1)


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dense_format_is_converted_to_the_activations_type(stored, dtype):
    weights = torch.randn(7, 12).to(FORMATS[stored].dtype)
    storage = DenseStorage(10, 12, dtype=dtype, device=CPU)
    storage.write(0, bytes_of(torch.zeros(3, 12, dtype=weights.dtype)), FORMATS[stored])
    storage.write(3, bytes_of(weights), FORMATS[stored])
    storage.finish()
    assert torch.equal(storage.dense()[3:], weights.to(dtype))
    assert storage.dense()[:3].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_the_packed_product_equals_the_product_with_the_plain_weights(dtype, rows):
    torch.manual_seed(1)
    weights, x = torch.randn(50, 24), torch.randn(rows, 24)
    bias = torch.randn(50)
    storage = DenseStorage(50, 24, dtype=dtype, device=CPU)
    storage.write(0, bytes_of(weights), FORMATS["F32"])
    storage.finish()
    # A processor without instructions for bfloat16 keeps the plain rows.
    packs = dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (storage.weight is None) == packs, "the plain copy stays beside the packed one"
    y = storage.multiply(x.to(dtype), bias.to(dtype)).double()
    exact = x.to(dtype).double() @ weights.to(dtype).double().T + bias.to(dtype).double()
    error = (y - exact).norm() / exact.norm()
    assert error < (1e-6 if dtype is torch.float32 else 4e-3)


def test_rows_can_be_gathered_from_a_storage_that_multiplies_too():
    weights = torch.randn(9, 4)
    storage = DenseStorage(9, 4, dtype=torch.float32, device=CPU)
    storage.write(0, bytes_of(weights), FORMATS["F32"])
    storage.finish(gathers=True)
    assert torch.equal(storage.gather(torch.tensor([8, 0])), weights[[8, 0]])
    torch.testing.assert_close(storage.multiply(torch.eye(4)), weights.T)


def test_a_tensor_of_many_pieces_is_written_whole(monkeypatch):
    monkeypatch.setattr("ferrule.quantization.dense._HOST_PIECE", 10)
    weights = torch.randn(11, 4)
    storage = DenseStorage(11, 4, dtype=torch.float32, device=CPU)
    storage.write(0, bytes_of(weights), FORMATS["F32"])
    storage.finish()
    assert torch.equal(storage.dense(), weights)
