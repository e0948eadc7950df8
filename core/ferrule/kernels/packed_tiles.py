"""How products with packed weights are cut."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.kernels.plane_layout import PlaneLayout

MAX_ROWS = 64
"""With more rows of x weights are dequantised first."""


@dataclass(frozen=True, slots=True)
class PackedTiles:
    """How a product is cut.

    Attributes:
        block_n: Rows of the matrix that a program takes.
        units: Units of columns (128 to 512, see PlaneLayout) that it takes at a time.
        splits: Programs that share the columns.
        num_warps: Of a program.
        num_stages: Steps whose weights are on their way at a time.
        scales_first: Whether weights are scaled before they are multiplied.
    """

    block_n: int
    units: int
    splits: int
    num_warps: int
    num_stages: int
    scales_first: bool = False


ROWS_BEFORE_COPY = 32
"""With more rows of x a bfloat16 copy, where there is one, is as fast as packed weights."""


def choose_packed_tiles(
    num_rows: int, num_out: int, num_in: int, layout: PlaneLayout, *, has_copy: bool
) -> PackedTiles | None:
    """How to cut a product; None: weights are dequantised first, or were.

    Args:
        num_rows: Of x.
        num_out: Rows of the matrix.
        num_in: Columns.
        layout: Of its planes.
        has_copy: Whether the matrix is there in x's type too.
    """
    if num_rows > (ROWS_BEFORE_COPY if has_copy else MAX_ROWS):
        return None
    if num_rows <= 16:
        # Two warps: with four, tiles of x would be too small to be copied by all of them.
        block_n = 64 if num_out >= 16384 else 32
        return PackedTiles(block_n, 1, _splits(num_out // block_n, num_in), 2, 3)
    return PackedTiles(64, 1, _splits(num_out // 64, num_in), 4, 3, scales_first=True)


def _splits(num_tiles: int, num_in: int) -> int:
    """Programs for a tile: some four for each of an H100's 132 multiprocessors."""
    if num_tiles >= 4 * 132:
        return 1
    wanted = 4 * 132 // max(num_tiles, 1)
    most = max(1, num_in // 1024)
    return max(split for split in (1, 2, 4, 8) if split <= max(1, min(wanted, most)))
