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
from ferrule.quantization.int4_cpu import Int4Storage, int4_bytes, packs_int4
from ferrule.quantization.packed import PackedStorage
from ferrule.quantization.packed_cpu import CpuPackedStorage, stays_packed


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFormat:
    """A GGUF block type: kept packed where that multiplies faster, or widened while it loads."""

    name: str
    block_size: int
    block_bytes: int
    function: Callable[[Tensor], Tensor]

    @property
    def layout(self) -> str:
        """Each type lies in its own way."""
        return self.name

    def row_bytes(self, num_cols: int) -> int:
        """Bytes of one stored row; rows are whole blocks."""
        assert num_cols % self.block_size == 0
        return num_cols // self.block_size * self.block_bytes

    def dequantize(self, data: Tensor) -> Tensor:
        """``[..., row_bytes]`` uint8 to ``[..., cols]`` float32, bit-equal to ``gguf.quants``."""
        return self.function(data)

    def allocate(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> Storage:
        """Room for the matrix, packed or widened."""
        if _has_planes(dtype, device):
            return PackedStorage(num_rows, num_cols, type=self.name, dtype=dtype, device=device)
        if stays_packed(self.name, num_cols, dtype, device):
            return CpuPackedStorage(num_rows, num_cols, self)
        if packs_int4(self.name, num_cols, dtype, device):
            return Int4Storage(num_rows, num_cols)
        return DenseStorage(num_rows, num_cols, dtype=dtype, device=device)

    def allocated_bytes(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> int:
        """Of a matrix once it is loaded."""
        if _has_planes(dtype, device):
            return LAYOUTS[self.name].num_bytes(num_rows, num_cols)
        if stays_packed(self.name, num_cols, dtype, device):
            return num_rows * self.row_bytes(num_cols)
        if packs_int4(self.name, num_cols, dtype, device):
            return int4_bytes(num_rows, num_cols)
        return num_rows * num_cols * dtype.itemsize


def _has_planes(dtype: torch.dtype, device: torch.device) -> bool:
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
