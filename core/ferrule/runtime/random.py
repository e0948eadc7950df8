"""Random numbers that depend on a seed and a position alone, whatever else is in the batch."""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood 2014): the golden-ratio step and two odd multipliers, as
# signed 64-bit numbers since torch multiplies those modulo 2^64.
_STEP = -7046029254386353131
_MULTIPLIER_1 = -4658895280553007687
_MULTIPLIER_2 = -7723592293110705685


def gumbel(seeds: Tensor, positions: Tensor, num_columns: int) -> Tensor:
    """Standard Gumbel noise: ``[rows, num_columns]`` float32.

    ``argmax(logits + gumbel)`` draws from ``softmax(logits)`` (the Gumbel-max trick), with no
    sum whose order could differ from batch to batch.

    Args:
        seeds: ``[rows]`` int64.
        positions: ``[rows]`` int64, the index that the drawn token will have.
        num_columns: Size of the vocabulary.
    """
    keys = _mix(_mix(seeds + _STEP) ^ (positions * _STEP))
    columns = torch.arange(1, num_columns + 1, device=seeds.device) * _STEP
    bits = _shift(_mix(keys[:, None] + columns), 41)  # 23 bits: the largest stays below 1
    uniform = (bits.float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift(x, 27)) * _MULTIPLIER_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, count: int) -> Tensor:
    """Right shift that brings in zeros; torch's own brings in the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)
