"""Dense formats: one number a weight, multiplied by the vendor's matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ferrule.kernels.product import gated_product, product, silu_mul
from ferrule.quantization.format import Format


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseFormat:
    """Weights stored as plain numbers of one torch type."""

    name: str
    dtype: torch.dtype
    layout: str = "dense"
    block_size: int = 1

    @property
    def block_bytes(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize

    def row_bytes(self, num_cols: int) -> int:
        """Bytes of one stored row."""
        return num_cols * self.dtype.itemsize

    def dequantize(self, data: Tensor) -> Tensor:
        """The bytes seen as numbers; no copy."""
        return data.view(self.dtype)

    def allocate(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> DenseStorage:
        """Room for a matrix in the activations' type."""
        return DenseStorage(num_rows, num_cols, dtype=dtype, device=device)

    def allocated_bytes(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> int:
        """Of a matrix once it is loaded."""
        return num_rows * num_cols * dtype.itemsize


# Weights converted at a time: enough to keep a GPU busy, and on a host the float32 values between
# two formats stay small (allocating and touching them anew costs more than the conversion).
_PIECE = 1 << 24
_HOST_PIECE = 1 << 20


class DenseStorage:
    """A matrix in the activations' own type.

    On CPU, weights are repacked once into oneDNN's blocked layout: a plain ``F.linear`` reorders
    them anew in every call, which costs as much as reading them. All products of SmolLM2-135M
    for one token on 2 cores with AVX512-BF16: 13 ms against 23 in bfloat16, 24 against 45 in
    float32.

    Args:
        num_rows: Output features.
        num_cols: Input features.
        dtype: Of the weights and of the activations they meet.
        device: Where they live.
    """

    def __init__(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_rows = num_rows
        self.num_cols = num_cols
        self.weight: Tensor | None = torch.empty(num_rows, num_cols, dtype=dtype, device=device)
        self._packed: Tensor | None = None

    def write(self, start: int, data: Tensor, format: Format) -> None:
        """Stores rows, dequantised and converted on the way."""
        assert self.weight is not None, "written after finish"
        piece_size = _HOST_PIECE if self.weight.device.type == "cpu" else _PIECE
        step = max(1, piece_size // self.num_cols)
        for first in range(0, data.shape[0], step):
            piece = data[first : first + step].to(self.weight.device, non_blocking=True)
            rows = self.weight[start + first : start + first + piece.shape[0]]
            rows.copy_(format.dequantize(piece))

    def finish(self, *, gathers: bool = False, multiplies: bool = True) -> None:
        """Repacks for the CPU where that pays; ``gathers`` keeps the plain rows as well."""
        assert self.weight is not None, "finished twice"
        if not multiplies or not _packs(self.weight):
            return
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)
        if not gathers:
            self.weight = None

    def multiply(
        self, x: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
    ) -> Tensor:
        """``[..., num_cols] -> [..., num_rows]``."""
        if self._packed is not None:
            y = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
            return y if add_to is None else y.add_(add_to)
        assert self.weight is not None
        return product(x, self.weight, bias, add_to)

    def multiply_gated(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[..., num_cols] -> [..., num_rows / 2]``."""
        if self._packed is not None:
            return silu_mul(self.multiply(x, bias))
        assert self.weight is not None
        return gated_product(x, self.weight, bias)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows by index: ``[...] -> [..., num_cols]``."""
        assert self.weight is not None, "gathers from a storage finished without gathers=True"
        return F.embedding(rows, self.weight)

    def dense(self) -> Tensor:
        """The whole matrix: ``[num_rows, num_cols]``."""
        if self.weight is not None:
            return self.weight
        assert self._packed is not None
        return self._packed.to_dense()


def _packs(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
