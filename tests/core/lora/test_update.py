from __future__ import annotations

import torch

from ferrule.lora import ModuleUpdate, dora_gain

A, B = torch.randn(3, 8), torch.randn(5, 3)


def test_delta_is_the_scaled_product():
    update = ModuleUpdate(a=A, b=B, scale=2.0)
    expected = (2.0 * B.double() @ A.double()).float()
    torch.testing.assert_close(update.delta(), expected)
    torch.testing.assert_close(update.delta(transposed=True), expected.T)


def test_the_gain_makes_every_row_as_long_as_its_magnitude():
    weight, magnitude = torch.randn(5, 8), torch.rand(5)
    update = ModuleUpdate(a=A, b=B, scale=0.5, magnitude=magnitude)
    merged = dora_gain(update, weight)[:, None] * (weight + update.delta())
    torch.testing.assert_close(merged.norm(dim=1), magnitude)


def test_sizes_are_those_of_the_tensors():
    update = ModuleUpdate(a=A.bfloat16(), b=B, bias=torch.zeros(5))
    assert update.rank == 3
    assert update.num_bytes == 3 * 8 * 2 + 5 * 3 * 4 + 5 * 4
    assert list(update.tensors) == ["a", "b", "bias"]
    assert ModuleUpdate(bias=torch.zeros(5)).rank == 0
