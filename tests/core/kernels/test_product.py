"""Products with a dense matrix where there is no GPU, and when the kernel for few rows is taken."""

from __future__ import annotations

import pytest
import torch

from ferrule.kernels import product as module
from ferrule.kernels.product import gated_product, product, silu_mul


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("num_rows", [1, 3, 100])
@pytest.mark.parametrize("biased", [False, True])
def test_products_with_and_without_what_they_are_added_to(num_rows, biased):
    x, weight, hidden = random(num_rows, 20), random(14, 20), random(num_rows, 14)
    bias = random(14) if biased else None
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
    torch.testing.assert_close(product(x, weight, bias).double(), exact, atol=1e-5, rtol=0)
    expected = exact + hidden.double()
    added = product(x, weight, bias, add_to=hidden)
    assert added is hidden, "it takes the result"
    torch.testing.assert_close(added.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_stay(dtype):
    x, weight = random(3, 20, dtype=dtype), random(14, 20, dtype=dtype)
    assert product(x, weight).dtype is dtype
    assert product(x, weight, add_to=random(3, 14, dtype=dtype)).dtype is dtype
    assert gated_product(x, weight).dtype is dtype


@pytest.mark.parametrize("biased", [False, True])
def test_gates_stand_above_and_ups_below(biased):
    x, gates, ups = random(5, 20), random(6, 20), random(6, 20)
    bias = random(12) if biased else torch.zeros(12)
    gate = x.double() @ gates.double().T + bias[:6].double()
    up = x.double() @ ups.double().T + bias[6:].double()
    expected = gate / (1 + (-gate).exp()) * up
    found = gated_product(x, torch.cat((gates, ups)), bias if biased else None)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_gate_of_any_number_of_dimensions():
    x = random(2, 3, 8)
    gate, up = x[..., :4].double(), x[..., 4:].double()
    found = silu_mul(x)
    assert found.shape == (2, 3, 4)
    torch.testing.assert_close(found.double(), gate / (1 + (-gate).exp()) * up)


class OnGpu:
    """What the choice looks at in a matrix."""

    is_cuda = True

    def __init__(self, *shape, dtype=torch.bfloat16, stride=1):
        self.shape, self.dtype, self._stride = shape, dtype, stride

    def dim(self):
        return len(self.shape)

    def stride(self, dim):
        assert dim == 1
        return self._stride


@pytest.mark.parametrize(
    ("x", "is_skinny"),
    [
        (OnGpu(1, 64), True),
        (OnGpu(64, 64, dtype=torch.float16), True),
        (OnGpu(65, 64), False),
        (OnGpu(2, 64, dtype=torch.float32), False),
        (OnGpu(2, 3, 64), False),
        (OnGpu(2, 64, stride=2), False),
        (torch.zeros(2, 64, dtype=torch.bfloat16), False),
    ],
    ids=["one", "most", "more", "float32", "three dimensions", "columns apart", "on the host"],
)
def test_few_rows_on_a_gpu_are_for_the_kernel(monkeypatch, x, is_skinny):
    weight = torch.zeros(70000, 64)
    monkeypatch.setattr(module, "has_triton", lambda: True)
    assert (module._tiles(x, weight) is not None) == is_skinny
    monkeypatch.setattr(module, "has_triton", lambda: False)
    assert module._tiles(x, weight) is None
