"""Every weight format that can be loaded, by the name that checkpoints use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ferrule.kernels.available import has_triton
from ferrule.kernels.plane_layout import LAYOUTS
from ferrule.quantization.dense import DenseFormat, DenseStorage
from ferrule.quantization.format import Format, FormatTable, Storage
from ferrule.quantization.gguf_blocks import DEQUANTIZERS
from ferrule.quantization.packed import PackedStorage


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFormat:
    """A GGUF block type: kept packed where kernels read it, widened while it loads elsewhere."""

    name: str
    block_size: int
    block_bytes: int
    function: Callable[[Tensor], Tensor]

    @property
    def layout(self) -> str:
        """Each type has planes of its own."""
        return self.name

    def row_bytes(self, num_cols: int) -> int:
        """Bytes of one stored row; rows are whole blocks."""
        assert num_cols % self.block_size == 0
        return num_cols // self.block_size * self.block_bytes

    def dequantize(self, data: Tensor) -> Tensor:
        """``[..., row_bytes]`` uint8 to ``[..., cols]`` float32, bit-equal to ``gguf.quants``."""
        return self.function(data)

    def memory(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> int:
        """Bytes of the planes, or of the widened matrix."""
        if _stays_packed(dtype, device):
            return LAYOUTS[self.name].num_bytes(num_rows, num_cols)
        return num_rows * num_cols * dtype.itemsize

    def allocate(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> Storage:
        """Room for the matrix."""
        if _stays_packed(dtype, device):
            return PackedStorage(num_rows, num_cols, type=self.name, dtype=dtype, device=device)
        return DenseStorage(num_rows, num_cols, dtype=dtype, device=device)


def _stays_packed(dtype: torch.dtype, device: torch.device) -> bool:
    """float32 on a GPU is for checks, so weights are widened."""
    return device.type == "cuda" and dtype is not torch.float32 and has_triton()


def _all_formats() -> dict[str, Format]:
    formats: dict[str, Format] = {
        name: DenseFormat(name=name, dtype=dtype)
        for name, dtype in (
            ("F64", torch.float64),
            ("F32", torch.float32),
            ("F16", torch.float16),
            ("BF16", torch.bfloat16),
        )
    }
    for name, block in DEQUANTIZERS.items():
        formats[name] = BlockFormat(
            name=name,
            block_size=block.block_size,
            block_bytes=block.block_bytes,
            function=block.dequantize,
        )
    return formats


FORMATS: FormatTable = MappingProxyType(_all_formats())
"""Formats by name."""
