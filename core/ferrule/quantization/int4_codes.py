"""GGUF's linear 4-bit types taken apart: a code, a scale and a zero for groups of 32 weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from ferrule.quantization.gguf_bits import fields, half
from ferrule.quantization.gguf_k import scales_and_minima

GROUP = 32
"""Weights that share a scale and a zero."""

MIDDLE = 8
"""The code that stands for a group's zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Int4Codes:
    """Rows of weights, each ``(code - 8) * scale + zero``.

    Attributes:
        codes: ``[rows, cols]`` uint8, 0 to 15.
        scales: ``[rows, cols / 32]`` float32.
        zeros: ``[rows, cols / 32]`` float32.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor


def _q4_0(blocks: Tensor) -> Int4Codes:
    scales = half(blocks[..., :2])
    return _codes(fields(blocks[..., 2:18], 4), scales, scales.new_zeros(scales.shape))


def _q4_1(blocks: Tensor) -> Int4Codes:
    scales = half(blocks[..., :2])
    zeros = half(blocks[..., 2:4]) + MIDDLE * scales
    return _codes(fields(blocks[..., 4:20], 4), scales, zeros)


def _q4_k(blocks: Tensor) -> Int4Codes:
    scales, minima = scales_and_minima(blocks[..., :16])
    return _codes(fields(blocks[..., 16:144], 4, runs=4), scales, MIDDLE * scales - minima)


def _codes(codes: Tensor, scales: Tensor, zeros: Tensor) -> Int4Codes:
    return Int4Codes(codes=codes.flatten(-2), scales=scales.flatten(-2), zeros=zeros.flatten(-2))


_SPLITTERS: Mapping[str, Callable[[Tensor], Int4Codes]] = MappingProxyType(
    {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
)

INT4_FORMATS = frozenset(_SPLITTERS)
"""Names of the formats whose weights are a line through 16 codes."""


def int4_codes(name: str, block_bytes: int, data: Tensor) -> Int4Codes:
    """Takes rows apart.

    Args:
        name: One of ``INT4_FORMATS``.
        block_bytes: Of that format.
        data: ``[rows, row_bytes]`` uint8.
    """
    return _SPLITTERS[name](data.unflatten(-1, (-1, block_bytes)))
