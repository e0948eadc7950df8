"""The fields of GGUF blocks apart from each other: codes, scales and minima as they are stored.

Layouts are those that gguf_legacy.py, gguf_k.py and gguf_iq.py describe; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ferrule.quantization.gguf_bits import fields, signed
from ferrule.quantization.gguf_k import scale_codes


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFields:
    """Of blocks ``[..., block_bytes]``, with the same leading sizes.

    Attributes:
        codes: ``[..., weights]`` uint8.
        scale: ``[..., groups]``: uint8, or int16 with the bits of a float16.
        minimum: The same.
        top: ``[..., 1]`` int16: the float16 that scales are multiplied by.
        top_minimum: The same, of minima.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor | None = None
    top: Tensor | None = None
    top_minimum: Tensor | None = None


def _half_bits(data: Tensor) -> Tensor:
    return data.clone(memory_format=torch.contiguous_format).view(torch.int16)


def _negated(bits: Tensor) -> Tensor:
    """A float16 with its sign turned."""
    return bits ^ torch.iinfo(torch.int16).min


def _q4_0(blocks: Tensor) -> BlockFields:
    return BlockFields(codes=fields(blocks[..., 2:18], 4), scale=_half_bits(blocks[..., :2]))


def _q4_1(blocks: Tensor) -> BlockFields:
    return BlockFields(
        codes=fields(blocks[..., 4:20], 4),
        scale=_half_bits(blocks[..., :2]),
        minimum=_negated(_half_bits(blocks[..., 2:4])),
    )


def _q5_0(blocks: Tensor) -> BlockFields:
    return BlockFields(
        codes=fields(blocks[..., 6:22], 4) | (fields(blocks[..., 2:6], 1, runs=4) << 4),
        scale=_half_bits(blocks[..., :2]),
    )


def _q5_1(blocks: Tensor) -> BlockFields:
    return BlockFields(
        codes=fields(blocks[..., 8:24], 4) | (fields(blocks[..., 4:8], 1, runs=4) << 4),
        scale=_half_bits(blocks[..., :2]),
        minimum=_negated(_half_bits(blocks[..., 2:4])),
    )


def _q8_0(blocks: Tensor) -> BlockFields:
    return BlockFields(codes=blocks[..., 2:34], scale=_half_bits(blocks[..., :2]))


def _q2_k(blocks: Tensor) -> BlockFields:
    return BlockFields(
        codes=fields(blocks[..., 16:80], 2, runs=2),
        scale=blocks[..., :16],
        top=_half_bits(blocks[..., 80:82]),
        top_minimum=_half_bits(blocks[..., 82:84]),
    )


def _q3_k(blocks: Tensor) -> BlockFields:
    scale = fields(blocks[..., 96:104], 4) | (fields(blocks[..., 104:108], 2) << 4)
    return BlockFields(
        codes=fields(blocks[..., 32:96], 2, runs=2) | (fields(blocks[..., :32], 1) << 2),
        scale=(signed(scale) - 32).view(torch.uint8),
        top=_half_bits(blocks[..., 108:110]),
    )


def _q4_k(blocks: Tensor) -> BlockFields:
    scale, minimum = scale_codes(blocks[..., 4:16])
    return BlockFields(
        codes=fields(blocks[..., 16:144], 4, runs=4),
        scale=scale,
        minimum=minimum,
        top=_half_bits(blocks[..., :2]),
        top_minimum=_half_bits(blocks[..., 2:4]),
    )


def _q5_k(blocks: Tensor) -> BlockFields:
    scale, minimum = scale_codes(blocks[..., 4:16])
    return BlockFields(
        codes=fields(blocks[..., 48:176], 4, runs=4) | (fields(blocks[..., 16:48], 1) << 4),
        scale=scale,
        minimum=minimum,
        top=_half_bits(blocks[..., :2]),
        top_minimum=_half_bits(blocks[..., 2:4]),
    )


def _q6_k(blocks: Tensor) -> BlockFields:
    high = fields(blocks[..., 128:192], 2, runs=2)
    return BlockFields(
        codes=fields(blocks[..., :128], 4, runs=2) | (high << 4),
        scale=blocks[..., 192:208],
        top=_half_bits(blocks[..., 208:210]),
    )


def _iq4_nl(blocks: Tensor) -> BlockFields:
    return BlockFields(codes=fields(blocks[..., 2:18], 4), scale=_half_bits(blocks[..., :2]))


def _iq4_xs(blocks: Tensor) -> BlockFields:
    scale = fields(blocks[..., 4:8], 4, runs=4) | (fields(blocks[..., 2:4], 2, runs=2) << 4)
    return BlockFields(
        codes=fields(blocks[..., 8:136], 4, runs=8),
        scale=(signed(scale) - 32).view(torch.uint8),
        top=_half_bits(blocks[..., :2]),
    )


SPLITTERS: Mapping[str, Callable[[Tensor], BlockFields]] = MappingProxyType(
    {
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q8_0": _q8_0,
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
    }
)
"""By the names that ggml gives its types."""
