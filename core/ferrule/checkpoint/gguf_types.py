"""The weight formats of GGUF files: how many weights a block holds, in how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class GgmlType:
    """One weight format of ggml.

    Attributes:
        name: As ggml calls it: ``F16``, ``Q4_K`` ...
        block_size: Weights in a block; a row holds whole blocks.
        block_bytes: Bytes of a block, its scales included.
    """

    name: str
    block_size: int
    block_bytes: int

    def num_bytes(self, num_weights: int) -> int:
        """Bytes of ``num_weights`` weights, which must be whole blocks."""
        return num_weights // self.block_size * self.block_bytes


def _table(types: Mapping[int, tuple[str, int, int]]) -> Mapping[int, GgmlType]:
    return MappingProxyType(
        {
            number: GgmlType(name=name, block_size=block_size, block_bytes=block_bytes)
            for number, (name, block_size, block_bytes) in types.items()
        }
    )


# Numbers: enum ggml_type in ggml.h. Sizes: the block structs of ggml-common.h, where a block of
# 32 has one half-precision scale (and a minimum in the _1 types), and a super-block of 256
# ("K" and IQ4_XS) has packed scales of its sub-blocks besides.
GGML_TYPES: Mapping[int, GgmlType] = _table(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        20: ("IQ4_NL", 32, 18),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        30: ("BF16", 1, 2),
    }
)
"""The formats that can be opened, by their number in the file."""

UNSUPPORTED_GGML_TYPES: Mapping[int, str] = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        9: "Q8_1",
        15: "Q8_K",
        16: "IQ2_XXS",
        17: "IQ2_XS",
        18: "IQ3_XXS",
        19: "IQ1_S",
        21: "IQ3_S",
        22: "IQ2_S",
        29: "IQ1_M",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        34: "TQ1_0",
        35: "TQ2_0",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
        39: "MXFP4",
        40: "NVFP4",
        41: "Q1_0",
    }
)
"""Formats of ggml, some of them withdrawn, that are known by name only."""
