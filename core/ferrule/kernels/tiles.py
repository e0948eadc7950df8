"""How products of a few rows are cut, and which are left to the vendor."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ROWS = 64
"""With more rows the vendor's product is as fast; a larger tile of x would leave registers."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut.

    Attributes:
        block_n: Rows of the matrix that a program takes.
        block_k: Columns that it takes at a time.
        splits: Programs that share the columns (1 for a single row of x).
        num_warps: Of a program.
        num_stages: Steps whose weights are on their way at a time.
    """

    block_n: int
    block_k: int
    splits: int
    num_warps: int
    num_stages: int


def choose_tiles(num_rows: int, num_out: int, num_in: int) -> Tiles | None:
    """How to cut a product, as it measured best on an H100; None: the vendor's is as fast.

    Other devices of the kind take the same: what counts is how many programs read at a time.
    """
    if num_rows == 1:
        return Tiles(8, 1024 if num_in % 1024 == 0 else 512, 1, 8, 3)
    if num_rows <= 16:
        fills_device = num_out >= 64 * 132
        splits = 1 if fills_device or num_in < 8192 else 2
        return Tiles(64, 128, splits, 4, 4 if num_out >= 16384 else 5)
    if num_rows <= MAX_ROWS and num_out >= 65536:
        return Tiles(128, 128, 1, 8, 3)
    if num_rows <= MAX_ROWS and num_out >= 16384:
        return Tiles(64, 128, 1, 4, 3)
    return None
