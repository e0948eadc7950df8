"""GGUF blocks on a GPU: kept packed, repacked on the device while they load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ferrule.kernels.packed_weight import (
    PackedWeight,
    packed_multiply,
    packed_multiply_gated,
    packed_multiply_pair,
)
from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.format import Format, Storage
from ferrule.quantization.repack import empty_planes, write_rows

# Weights repacked at a time: enough to keep a GPU busy; steps between hold 4 bytes for each.
_PIECE = 1 << 25


class PackedStorage:
    """A matrix in the planes of its type, whose weights are exactly those of the file.

    Args:
        num_rows: Output features.
        num_cols: Input features.
        type: Of the blocks.
        dtype: Of the activations they meet.
        device: Where they live.
    """

    def __init__(
        self, num_rows: int, num_cols: int, *, type: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_rows = num_rows
        self.num_cols = num_cols
        self.dtype = dtype
        self.multiplies = True
        planes = empty_planes(LAYOUTS[type], num_rows, num_cols, device)
        self.weight = PackedWeight(planes=planes, type=type, num_rows=num_rows)

    def write(self, start: int, data: Tensor, format: Format) -> None:
        """Stores rows."""
        assert format.name == self.weight.type
        planes, layout = self.weight.planes, self.weight.layout
        step = max(1, _PIECE // self.num_cols)
        for first in range(0, data.shape[0], step):
            piece = data[first : first + step].to(planes.low.device, non_blocking=True)
            write_rows(planes, layout, start + first, piece, format.name)

    def finish(self, *, gathers: bool = False, multiplies: bool = True) -> None:
        """Planes serve both uses."""
        self.multiplies = multiplies

    def keep_copy(self) -> None:
        """Keeps the weights in the activations' type as well, for products of many rows."""
        if self.multiplies:
            self.weight = replace(self.weight, copy=self.dense())

    def multiply(
        self, x: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
    ) -> Tensor:
        """``[..., num_cols] -> [..., num_rows]``."""
        rows, added = _rows(x), None if add_to is None else _rows(add_to)
        if torch.compiler.is_compiling():
            from ferrule.kernels.packed_op import packed_multiply_op

            y = packed_multiply_op(rows, self.weight, bias, added)
        else:
            y = packed_multiply(rows, self.weight, bias, added)
        return y.view(*x.shape[:-1], self.num_rows)

    def multiply_beside(
        self,
        others: Sequence[Storage],
        x: Tensor,
        out: Tensor,
        bias: Tensor | None,
        *,
        adds: bool,
    ) -> None:
        """Writes or adds this product and those of others to ``out``, side by side.

        Args:
            others: More matrices of the same columns.
            x: ``[rows, num_cols]``.
            out: ``[rows, rows of all]``, contiguous within a row.
            bias: Of all, one after another.
            adds: Whether what is in ``out`` is kept.
        """
        x = _rows(x)
        weights = [self.weight]
        for other in others:
            assert isinstance(other, PackedStorage)
            weights.append(other.weight)
        if len(weights) == 2 and not adds:
            first, second = weights
            if packed_multiply_pair(x, first, second, bias, out):
                return
        start = 0
        for weight in weights:
            end = start + weight.num_rows
            part, of_part = out[:, start:end], None if bias is None else bias[start:end]
            if adds:
                packed_multiply(x, weight, of_part, add_to=part)
            else:
                packed_multiply(x, weight, of_part, out=part)
            start = end

    def multiply_gated(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[..., num_cols] -> [..., num_rows / 2]``."""
        if torch.compiler.is_compiling():
            from ferrule.kernels.packed_op import packed_multiply_gated_op

            y = packed_multiply_gated_op(_rows(x), self.weight, bias)
        else:
            y = packed_multiply_gated(_rows(x), self.weight, bias)
        return y.view(*x.shape[:-1], self.num_rows // 2)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows by index: ``[...] -> [..., num_cols]``."""
        from ferrule.kernels.dequantize import dequantize

        index = rows.reshape(-1)
        out = torch.empty(index.shape[0], self.num_cols, dtype=self.dtype, device=rows.device)
        dequantize(self.weight.planes, self.weight.layout, out, index)
        return out.view(*rows.shape, self.num_cols)

    def dense(self) -> Tensor:
        """The whole matrix: ``[num_rows, num_cols]``."""
        if self.weight.copy is not None:
            return self.weight.copy
        from ferrule.kernels.dequantize import dequantize

        planes = self.weight.planes
        out = torch.empty(self.num_rows, self.num_cols, dtype=self.dtype, device=planes.low.device)
        return dequantize(planes, self.weight.layout, out)


def _rows(x: Tensor) -> Tensor:
    """``[..., cols] -> [rows, cols]``, contiguous within a row."""
    x = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()
