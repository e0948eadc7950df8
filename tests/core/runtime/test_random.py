"""Counter-based noise: reproducible, independent, of the right distribution."""

from __future__ import annotations

import math

import numpy as np
import torch

from ferrule.runtime.random import gumbel


def splitmix64(x: int) -> int:
    """The finaliser of the published generator, in Python's own integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_the_noise_is_built_on_splitmix64():
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    seed, position, column = 12345, 678, 9
    key = splitmix64(splitmix64((seed + golden) & mask) ^ (position * golden & mask))
    bits = splitmix64((key + (column + 1) * golden) & mask) >> 41
    expected = -math.log(-math.log((bits + 0.5) * 2**-23))
    noise = gumbel(torch.tensor([seed]), torch.tensor([position]), 16)
    assert abs(noise[0, column].item() - expected) < 1e-4


def test_the_distribution_is_gumbels():
    noise = gumbel(torch.arange(200), torch.zeros(200, dtype=torch.int64), 1000).double()
    # Mean is Euler's constant, variance pi^2 / 6; 200,000 samples leave some thousandths.
    assert abs(noise.mean().item() - np.euler_gamma) < 0.02
    assert abs(noise.var().item() - math.pi**2 / 6) < 0.03
    assert noise.isfinite().all()


def test_neighbouring_seeds_positions_and_columns_are_uncorrelated():
    zeros = torch.zeros(64, dtype=torch.int64)
    by_seed = gumbel(torch.arange(64), zeros, 2000).double()
    by_position = gumbel(zeros, torch.arange(64), 2000).double()
    for noise in (by_seed, by_position, by_seed.T, by_position.T):
        matrix = np.corrcoef(noise.numpy()[:64, :])
        others = matrix[~np.eye(len(matrix), dtype=bool)]
        assert np.abs(others).mean() < 1.2 / math.sqrt(noise.shape[1])
