"""What attention must know to read blocks once that many rows begin with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPrefix:
    """Blocks that several rows of a batch begin with.

    Attributes:
        starts: ``[rows]`` int64: how many tokens of a row are in the shared blocks: all of them,
            or 0 for a row that does not share.
        table: ``[blocks]`` int32: a block table that begins with the shared blocks.
        length: ``[1]`` int64: tokens in the shared blocks, which are full.
    """

    starts: Tensor
    table: Tensor
    length: Tensor
