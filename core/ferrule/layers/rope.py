"""Rotary position embeddings (arXiv 2104.09864) and the ways to stretch them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferrule.kernels.available import runs_kernels
from ferrule.model_config import RopeConfig


class Rotation(NamedTuple):
    """By how much a step's tokens are rotated, shared by all layers.

    Attributes:
        cos: ``[tokens, 1, rotary_dim]``.
        sin: ``[tokens, 1, rotary_dim]``, negative in the first half of the channels, so that
            rotating is ``x * cos + swapped(x) * sin``.
    """

    cos: Tensor
    sin: Tensor


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates the first ``rotary_dim`` channels of each head.

    Channel ``i`` is paired with ``i + rotary_dim/2``.

    Args:
        x: ``[tokens, heads, head_dim]``.
        rotation: Of the same tokens.
    """
    cos, sin = rotation
    dim = cos.shape[-1]
    if dim < x.shape[-1]:
        return torch.cat((rotate(x[..., :dim], rotation), x[..., dim:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


class Rope(nn.Module):
    """Positions to rotations.

    Args:
        config: Frequencies and scaling.
        max_position_embeddings: Context before ``dynamic`` scaling begins, in tokens.
    """

    inv_freq: Tensor

    def __init__(self, config: RopeConfig, max_position_embeddings: int) -> None:
        super().__init__()
        self.config = config
        self.max_position_embeddings = max_position_embeddings
        self.scale = attention_factor(config)
        # On the CPU even while the model is built on the meta device: it is computed, not loaded.
        self.register_buffer("inv_freq", inverse_frequencies(config), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """``[tokens]`` positions to a rotation in ``dtype``; angles are float32."""
        if runs_kernels(positions) and self.config.type != "dynamic":
            from ferrule.kernels.rotation import rotation_of

            return Rotation(*rotation_of(positions, self.inv_freq, self.scale, dtype))
        freq = self._dynamic(positions) if self.config.type == "dynamic" else self.inv_freq
        angles = positions[:, None].float() * freq
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        return Rotation(
            torch.cat((cos, cos), dim=-1).to(dtype)[:, None],
            torch.cat((-sin, sin), dim=-1).to(dtype)[:, None],
        )

    def _dynamic(self, positions: Tensor) -> Tensor:
        """NTK-aware frequencies for a context that ends at each token: ``[tokens, dim/2]``.

        transformers takes the longest position seen so far for all tokens of a call, which
        makes the result depend on how a prompt is cut. Here each token's own position counts,
        as in decoding one by one: equal to transformers there, and independent of the batch.
        """
        config, limit = self.config, self.max_position_embeddings
        length = (positions + 1).clamp(min=limit).double()
        stretch = config.factor * length / limit - (config.factor - 1)
        dim = config.rotary_dim
        base = config.theta * stretch ** (dim / (dim - 2))
        exponents = torch.arange(0, dim, 2, device=positions.device).double() / dim
        return (base[:, None] ** -exponents).float()


def inverse_frequencies(config: RopeConfig) -> Tensor:
    """Radians a position for each channel pair: ``[rotary_dim / 2]`` float32 on the CPU.

    ``dynamic`` gives the frequencies of the unstretched context.
    """
    dim = config.rotary_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    freq = 1.0 / config.theta**exponents
    match config.type:
        case "linear":
            freq = freq / config.factor
        case "llama3":
            freq = _llama3(freq, config)
        case "yarn":
            freq = _yarn(freq, config)
        case "default" | "dynamic":
            pass
    if config.freq_factors is not None:
        freq = freq / torch.tensor(config.freq_factors, dtype=torch.float32, device="cpu")
    return freq


def attention_factor(config: RopeConfig) -> float:
    """What cos and sin are multiplied by; 1 unless yarn says otherwise (arXiv 2309.00071, 3.4)."""
    if config.type != "yarn":
        return 1.0
    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return _mscale(config.factor, config.mscale) / _mscale(config.factor, config.mscale_all_dim)
    return _mscale(config.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _llama3(freq: Tensor, config: RopeConfig) -> Tensor:
    """Long wavelengths are stretched, short ones stay, those between are blended."""
    assert config.original_max_position_embeddings is not None
    turns = config.original_max_position_embeddings * freq / (2 * math.pi)
    low, high = config.low_freq_factor, config.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - keep) * freq / config.factor + keep * freq


def _yarn(freq: Tensor, config: RopeConfig) -> Tensor:
    """Channels that turn often are kept, those that turn rarely stretched (2309.00071, 3.2)."""
    assert config.original_max_position_embeddings is not None
    dim, original = config.rotary_dim, config.original_max_position_embeddings

    def channel(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = channel(config.beta_fast), channel(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # the ramp needs a width
    steps = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
    stretched = ((steps - low) / (high - low)).clamp(0, 1)
    return freq / config.factor * stretched + freq * (1 - stretched)
