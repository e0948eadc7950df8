"""GGUF matrices on a CPU in the file's own bytes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ferrule.kernels.host.library import host_library
from ferrule.kernels.host.ops import KINDS, packed_product
from ferrule.kernels.product import silu_mul
from ferrule.quantization.format import Format

# From here on widening the matrix piece by piece for a float32 product costs less than the packed
# product, which unpacks its codes anew for every eight rows: see docs/design/performance.md.
_MANY_ROWS = 128
# Weights widened at a time; their floats stay in a core's cache.
_PIECE = 1 << 18


def stays_packed(name: str, num_cols: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a matrix of this format keeps its bytes for activations of ``dtype``."""
    return (
        name in KINDS
        and device.type == "cpu"
        and dtype is torch.bfloat16
        and num_cols % 32 == 0
        and host_library() is not None
    )


class CpuPackedStorage:
    """A matrix as the file has it, multiplied by a kernel that reads these bytes.

    Few rows are multiplied by packed codes; for many, pieces of the matrix are widened to float32
    as they are needed. Nothing of a weight is rounded.

    Args:
        num_rows: Output features.
        num_cols: Input features, a multiple of 32.
        format: Of all rows.
    """

    def __init__(self, num_rows: int, num_cols: int, format: Format) -> None:
        self.num_rows = num_rows
        self.num_cols = num_cols
        self._format = format
        self._kind = KINDS.index(format.name)
        self._data = torch.empty(num_rows, format.row_bytes(num_cols), dtype=torch.uint8)

    def write(self, start: int, data: Tensor, format: Format) -> None:
        """Stores rows."""
        assert format.name == self._format.name, "formats of one layout only"
        self._data[start : start + data.shape[0]] = data

    def finish(self, *, gathers: bool = False, multiplies: bool = True) -> None:
        """Nothing to repack: gathering and multiplying read the same bytes."""

    def multiply(
        self, x: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
    ) -> Tensor:
        """``[..., num_cols] -> [..., num_rows]``."""
        if x.dim() != 2:
            flat = None if add_to is None else add_to.reshape(-1, self.num_rows)
            y = self.multiply(x.reshape(-1, self.num_cols), bias, flat)
            return y.view(*x.shape[:-1], self.num_rows)
        if x.shape[0] < _MANY_ROWS and (add_to is None or add_to.is_contiguous()):
            return packed_product(self._kind, self._data, x, bias, add_to)
        y = self._by_pieces(x)
        if bias is not None:
            y = y + bias
        return y if add_to is None else add_to.add_(y)

    def multiply_gated(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[..., num_cols] -> [..., num_rows / 2]``."""
        if x.dim() == 2 and x.shape[0] < _MANY_ROWS:
            return packed_product(self._kind, self._data, x, bias, gated=True)
        return silu_mul(self.multiply(x, bias))

    def gather(self, rows: Tensor) -> Tensor:
        """Rows by index: ``[...] -> [..., num_cols]``."""
        return self._format.dequantize(self._data[rows]).bfloat16()

    def dense(self) -> Tensor:
        """The whole matrix: ``[num_rows, num_cols]``."""
        return torch.cat([piece.bfloat16() for _, piece in self._pieces()])

    def _by_pieces(self, x: Tensor) -> Tensor:
        wide, y = x.float(), x.new_empty(x.shape[0], self.num_rows)
        for first, piece in self._pieces():
            y[:, first : first + piece.shape[0]] = wide @ piece.t()
        return y

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        """The first row of each piece, and its weights in float32."""
        step = max(1, _PIECE // self.num_cols)
        for first in range(0, self.num_rows, step):
            yield first, self._format.dequantize(self._data[first : first + step])
