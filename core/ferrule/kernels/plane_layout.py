"""How a packed matrix lies on a GPU: planes of equal fields that kernels read in full lines.

Rows come in tiles of 64, and columns in chunks of four groups; a group shares a scale. The plane of
low bits holds 16-bit words: word ``i`` of a chunk has the field of weight ``i`` of each of its four
groups (4 bits), of two chunks (2 bits) or of two groups (8 bits), lowest first. So one operation
takes out the fields of a group for two neighbouring weights, and a group's weights lie in order.
Within a tile a chunk's words of all 64 rows are neighbours, and chunks follow each other: a program
that takes a tile reads one run of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor

TILE = 64
"""Rows of a tile."""
GROUPS = 4
"""Groups of a chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaneLayout:
    """The planes of one type: ``weight = scale * (code - zero) - minimum``, group by group.

    Attributes:
        group: Weights that share a scale: 16 or 32.
        low_bits: Bits of a code in the first plane: 2, 4 or 8 (signed).
        high_bits: Bits above them in a plane of their own: 0, 1 or 2.
        zero: What is subtracted from a code.
        scales: ``half``: a float16 a group. ``signed``, ``unsigned``: a byte a group, times a
            float16 for 256 weights. ``nibbles``: the same, in the lower half of a byte whose upper
            half is the minimum.
        has_minimum: Whether there are minima, in the same form as the scales.
        has_levels: Whether a code stands for one of 16 levels (ggml's kvalues_iq4nl).
    """

    group: int
    low_bits: int
    high_bits: int = 0
    zero: int = 0
    scales: Literal["half", "signed", "unsigned", "nibbles"] = "half"
    has_minimum: bool = False
    has_levels: bool = False

    @property
    def chunk(self) -> int:
        """Columns of a chunk."""
        return GROUPS * self.group

    @property
    def chunks_of_unit(self) -> int:
        """Chunks of a unit."""
        return self.unit // self.chunk

    @property
    def low_words(self) -> int:
        """Words that the low fields of a weight's four groups take."""
        return max(1, GROUPS * self.low_bits // 16)

    @property
    def low_span(self) -> int:
        """Chunks whose low fields share a word."""
        return max(1, 16 // (GROUPS * self.low_bits))

    @property
    def high_span(self) -> int:
        """Chunks whose high fields share a word."""
        return 16 // (GROUPS * self.high_bits) if self.high_bits else 1

    @property
    def subtracted(self) -> int:
        """What codes lose in registers; where there are minima, those take all of it."""
        return 0 if self.has_minimum or self.has_levels else self.zero

    @property
    def has_tops(self) -> bool:
        """Whether scales are bytes that share a float16."""
        return self.scales != "half"

    @property
    def chunks_of_top(self) -> int:
        """Chunks that share a float16."""
        return 256 // self.chunk

    @property
    def unit(self) -> int:
        """Columns are padded to a multiple of this, by weights of 0: planes hold whole words."""
        chunks = max(self.low_span, self.high_span) * self.chunk
        return max(chunks, 256) if self.has_tops else chunks

    def padded(self, num_cols: int) -> int:
        """Columns with those that pad."""
        return -(-num_cols // self.unit) * self.unit

    def num_bytes(self, num_rows: int, num_cols: int) -> int:
        """Memory of all planes of a matrix."""
        cols = self.padded(num_cols)
        bits = cols * (self.low_bits + self.high_bits)
        has_pair = self.has_minimum and self.scales != "nibbles"
        scale_bits = 8 if self.has_tops else 16
        bits += cols // self.group * scale_bits * (1 + has_pair)
        if self.has_tops:
            bits += cols // 256 * 32
        return -(-num_rows // TILE) * TILE * bits // 8


class Planes(NamedTuple):
    """A matrix on a device; what a type has no use for is empty.

    Attributes:
        low: ``[tiles, words, 64 * group]`` int16.
        high: The same.
        scale: ``[tiles, chunks, 2 * 64]`` int32 of two float16, or ``[tiles, chunks, 64]`` of four
            bytes.
        minimum: The same.
        top: ``[tiles, cols / 256, 64]`` int32: two float16, of scales and of minima, or the bits of
            a float32.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    minimum: Tensor
    top: Tensor


LAYOUTS: Mapping[str, PlaneLayout] = MappingProxyType(
    {
        "Q4_0": PlaneLayout(group=32, low_bits=4, zero=8),
        "Q4_1": PlaneLayout(group=32, low_bits=4, has_minimum=True),
        "Q5_0": PlaneLayout(group=32, low_bits=4, high_bits=1, zero=16),
        "Q5_1": PlaneLayout(group=32, low_bits=4, high_bits=1, has_minimum=True),
        "Q8_0": PlaneLayout(group=32, low_bits=8),
        "Q2_K": PlaneLayout(group=16, low_bits=2, scales="nibbles", has_minimum=True),
        "Q3_K": PlaneLayout(group=16, low_bits=2, high_bits=1, zero=4, scales="signed"),
        "Q4_K": PlaneLayout(group=32, low_bits=4, scales="unsigned", has_minimum=True),
        "Q5_K": PlaneLayout(group=32, low_bits=4, high_bits=1, scales="unsigned", has_minimum=True),
        "Q6_K": PlaneLayout(group=16, low_bits=4, high_bits=2, zero=32, scales="signed"),
        "IQ4_NL": PlaneLayout(group=32, low_bits=4, has_levels=True),
        "IQ4_XS": PlaneLayout(group=32, low_bits=4, scales="signed", has_levels=True),
    }
)
"""By the names that ggml gives its types."""
