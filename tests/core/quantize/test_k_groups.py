"""Searched scales against the best of a fine grid, group by group."""

from __future__ import annotations

import torch

from ferrule.quantize.k_groups import scales_and_minima, signed_scales


def groups(count, size):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


def test_signed_scales_are_nearly_the_best_of_a_grid():
    x = groups(20, 16)
    found = signed_scales(x, 32)

    def loss(scale):
        codes = (x / scale[:, None]).round().clamp(-32, 31)
        return (x.square() * (x - scale[:, None] * codes).square()).sum(-1)

    largest = x.abs().amax(-1) / 32
    grid = torch.stack(
        [loss(sign * largest * f) for sign in (1, -1) for f in torch.linspace(0.8, 1.2, 400)]
    )
    assert loss(found).mean() < 1.4 * grid.amin(0).mean() < 0.5 * loss(largest).mean()


def test_a_line_that_codes_can_follow_is_found():
    codes = torch.arange(32).remainder(16).float()
    scale, minimum = scales_and_minima((0.3 * codes - 1.2)[None], 15, first=-1.0, num_steps=20)
    assert torch.allclose(scale, torch.tensor([0.3]), rtol=1e-4)
    assert torch.allclose(minimum, torch.tensor([1.2]), rtol=1e-4)


def test_minima_and_scales_are_never_negative():
    x = torch.cat([groups(50, 32), groups(50, 32).abs() + 1, -groups(50, 32).abs() - 1])
    scale, minimum = scales_and_minima(x, 15, first=-1.0, num_steps=20)
    assert (scale >= 0).all()
    assert (minimum >= 0).all()


def test_zeros_have_scale_zero():
    zeros = torch.zeros(2, 16)
    assert torch.equal(signed_scales(zeros, 32), torch.zeros(2))
    assert all((each == 0).all() for each in scales_and_minima(zeros, 15, first=-1.0, num_steps=5))
