"""RMSNorm against its formula in float64."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers import RMSNorm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_mean_square_is_taken_in_float32(dtype, tolerance):
    norm = RMSNorm(96, eps=1e-5)
    norm.weight.data = torch.randn(96).to(dtype)
    x = (torch.randn(5, 96) * 30).to(dtype)
    exact = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    exact *= norm.weight.double()
    y = norm(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)


def test_tiny_inputs_are_kept_finite_by_eps():
    norm = RMSNorm(4, eps=1e-6)
    norm.weight.data = torch.ones(4)
    assert torch.equal(norm(torch.zeros(1, 4)), torch.zeros(1, 4))
