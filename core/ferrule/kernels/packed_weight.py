"""Products with a packed matrix on a GPU: own kernels for few rows of x, the vendor's above."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferrule.kernels.packed_tiles import PackedTiles, choose_packed_tiles
from ferrule.kernels.plane_layout import LAYOUTS, PlaneLayout, Planes
from ferrule.kernels.product import gated_product, product


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedWeight:
    """A packed matrix.

    Attributes:
        planes: Its weights.
        type: Name of the blocks that they came from.
        num_rows: Rows.
        copy: The same weights in x's type, ``[num_rows, num_cols]``.
    """

    planes: Planes
    type: str
    num_rows: int
    copy: Tensor | None = None

    @property
    def layout(self) -> PlaneLayout:
        """Of the planes."""
        return LAYOUTS[self.type]


def packed_multiply(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    add_to: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``x @ weight.T + bias``, added to ``add_to`` or written to ``out``, which take the result.

    Args:
        x: ``[rows, in]``, contiguous within a row.
        weight: ``[out, in]``.
        bias: ``[out]``, contiguous.
        add_to: ``[rows, out]``, contiguous within a row.
        out: The same.

    Returns:
        ``[rows, out]``.
    """
    if (tiles := _tiles(x, weight)) is not None:
        from ferrule.kernels.packed import packed_product

        return packed_product(
            x,
            weight.planes,
            weight.layout,
            weight.num_rows,
            bias,
            add_to=add_to,
            out=out,
            tiles=tiles,
        )
    dense = _dense(x, weight)
    if out is None:
        return product(x, dense, bias, add_to)
    torch.mm(x, dense.t(), out=out)
    return out if bias is None else out.add_(bias)


def packed_multiply_pair(
    x: Tensor, first: PackedWeight, second: PackedWeight, bias: Tensor | None, out: Tensor
) -> bool:
    """Both products side by side by one launch, if x has few rows.

    Args:
        x: ``[rows, in]``, contiguous within a row.
        first: A matrix.
        second: Another, of the same columns.
        bias: Of both, contiguous.
        out: ``[rows, out]``, contiguous within a row: takes the results.

    Returns:
        Whether it was done; if not, nothing was.
    """
    cuts = _tiles(x, first), _tiles(x, second)
    if cuts[0] is None or cuts[1] is None:
        return False
    from ferrule.kernels.packed_pair import packed_pair

    packed_pair(
        x,
        (
            (first.planes, first.layout, first.num_rows),
            (second.planes, second.layout, second.num_rows),
        ),
        bias,
        out,
        (cuts[0], cuts[1]),
    )
    return True


def packed_multiply_gated(x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` of a matrix of gates above ups: ``[rows, in] -> [rows, out / 2]``."""
    if (tiles := _tiles(x, weight)) is not None:
        from ferrule.kernels.packed import packed_product

        return packed_product(
            x, weight.planes, weight.layout, weight.num_rows, bias, gated=True, tiles=tiles
        )
    return gated_product(x, _dense(x, weight), bias)


def _tiles(x: Tensor, weight: PackedWeight) -> PackedTiles | None:
    return choose_packed_tiles(
        x.shape[0],
        weight.num_rows,
        x.shape[1],
        weight.layout,
        has_copy=weight.copy is not None,
    )


def _dense(x: Tensor, weight: PackedWeight) -> Tensor:
    """In x's type: the copy, or one for this product, whose place the next one's takes."""
    if weight.copy is not None:
        return weight.copy
    from ferrule.kernels.dequantize import dequantize

    out = torch.empty(weight.num_rows, x.shape[1], dtype=x.dtype, device=x.device)
    return dequantize(weight.planes, weight.layout, out)
