"""Scales for a group of weights that lose least, as ggml's reference quantisers search them.

The searches are those of ggml-quants.c, for all groups of a matrix at once: every candidate scale
is tried on every group, and a group keeps its best. The arithmetic is float32 as there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scales_and_minima(
    groups: Tensor, top: int, *, first: float, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Scale and minimum for weights near ``scale * code - minimum`` (make_qkx2_quants).

    The error counts more where a weight is large: each weighs the group's root mean square plus
    its own size.

    Args:
        groups: ``[groups, weights]`` float32.
        top: The largest code; the smallest is 0.
        first: By how much the first candidate differs from ``top`` codes over the group's range.
        num_steps: Candidates after that, 0.1 apart.

    Returns:
        Scales and minima, ``[groups]`` each, none of them negative.
    """
    weight = groups.square().mean(-1, keepdim=True).sqrt() + groups.abs()
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    spread = groups.amax(-1, keepdim=True) - low
    is_flat = spread == 0
    spread = spread.masked_fill(is_flat, 1)
    sum_w, sum_x = weight.sum(-1), (weight * groups).sum(-1)

    def coded(inverse: Tensor) -> Tensor:
        return (inverse * (groups - low)).round_().clamp_(0, top)

    def error_of(scale: Tensor, offset: Tensor, codes: Tensor) -> Tensor:
        return (weight * (scale[:, None] * codes + offset[:, None] - groups).square()).sum(-1)

    best_scale, best_low = (spread / top).squeeze(-1), low.squeeze(-1)
    best = error_of(best_scale, best_low, coded(top / spread))
    for step in range(num_steps + 1):
        codes = coded((first + 0.1 * step + top) / spread)
        weighted = weight * codes
        sum_l, sum_l2 = weighted.sum(-1), (weighted * codes).sum(-1)
        sum_xl = (weighted * groups).sum(-1)
        # The line through (code, weight) of least squares.
        det = sum_w * sum_l2 - sum_l.square()
        scale = (sum_w * sum_xl - sum_x * sum_l) / det
        offset = (sum_l2 * sum_x - sum_l * sum_xl) / det
        is_above = offset > 0
        scale = torch.where(is_above, sum_xl / sum_l2, scale)
        offset = offset.masked_fill(is_above, 0)
        error = error_of(scale, offset, codes)
        is_better = (det > 0) & (error < best)
        best = torch.where(is_better, error, best)
        best_scale = torch.where(is_better, scale, best_scale)
        best_low = torch.where(is_better, offset, best_low)
    return best_scale.masked_fill(is_flat.squeeze(-1), 0), -best_low


def signed_scales(groups: Tensor, half: int) -> Tensor:
    """Scale for weights near ``scale * code`` with codes ``-half .. half - 1`` (make_qx_quants).

    A weight's error counts by its square.

    Args:
        groups: ``[groups, weights]`` float32.
        half: Half the number of codes.

    Returns:
        ``[groups]``; 0 for a group of zeros.
    """
    at = groups.abs().argmax(-1, keepdim=True)
    largest = groups.gather(-1, at)
    is_zero = largest.abs() < 1e-15
    largest = largest.masked_fill(is_zero, 1)
    weight = groups.square()
    best = best_scale = torch.zeros(groups.shape[0])
    for step in (0, *range(-9, 0), *range(1, 10)):
        codes = (-(half + 0.1 * step) / largest * groups).round_().clamp_(-half, half - 1)
        weighted = weight * codes
        sum_lx, sum_l2 = (weighted * groups).sum(-1), (weighted * codes).sum(-1)
        gain = sum_lx.square() / sum_l2
        is_better = (sum_l2 > 0) & (gain > best)
        best = torch.where(is_better, gain, best)
        best_scale = torch.where(is_better, sum_lx / sum_l2, best_scale)
    return best_scale.masked_fill(is_zero.squeeze(-1), 0)
