"""Four-bit matrices on a CPU: packed for torch's product with groups of 32 weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from ferrule.kernels.product import silu_mul
from ferrule.quantization.format import Format
from ferrule.quantization.int4_codes import GROUP, INT4_FORMATS, MIDDLE, int4_codes

# From here on widening the matrix piece by piece for a float32 product costs less than the packed
# product, which reads its codes anew for every four rows: see docs/design/performance.md.
_MANY_ROWS = 128
# Weights widened at a time; their floats stay in a core's cache.
_PIECE = 1 << 18
# The packed product takes rows in multiples of this on every CPU.
_ROW_TILE = 64


def packs_int4(name: str, num_cols: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a matrix of this format is kept in four bits for activations of ``dtype``."""
    return (
        name in INT4_FORMATS
        and device.type == "cpu"
        and dtype is torch.bfloat16
        and num_cols % GROUP == 0
        and _block_rows() is not None
    )


def int4_bytes(num_rows: int, num_cols: int) -> int:
    """Bytes of a packed matrix: half a byte a weight, and two bfloat16 a group."""
    return _padded(num_rows) * (num_cols // 2 + num_cols // GROUP * 4)


class Int4Storage:
    """A matrix in four bits a weight, with a scale and a zero in bfloat16 for 32 of them.

    That rounding is the only one: codes are the file's own. A few rows are multiplied by packed
    codes; for many, pieces of the matrix are widened to float32 as they are needed.

    Args:
        num_rows: Output features.
        num_cols: Input features, a multiple of 32.
    """

    def __init__(self, num_rows: int, num_cols: int) -> None:
        self.num_rows = num_rows
        self.num_cols = num_cols
        rows, groups = _padded(num_rows), num_cols // GROUP
        self._codes: Tensor | None = torch.zeros(rows, num_cols, dtype=torch.uint8)
        # As the product takes them; [:, :, 0] are scales and [:, :, 1] zeros.
        self._scales = torch.zeros(groups, rows, 2, dtype=torch.bfloat16)
        self._packed = torch.empty(0, dtype=torch.uint8)

    def write(self, start: int, data: Tensor, format: Format) -> None:
        """Stores rows."""
        assert self._codes is not None, "written after finish"
        step = max(1, _PIECE // self.num_cols)
        for first in range(0, data.shape[0], step):
            piece = int4_codes(format.name, format.block_bytes, data[first : first + step])
            rows = slice(start + first, start + first + piece.codes.shape[0])
            self._codes[rows] = piece.codes
            self._scales[:, rows, 0] = piece.scales.t().bfloat16()
            self._scales[:, rows, 1] = piece.zeros.t().bfloat16()

    def finish(self, *, gathers: bool = False, multiplies: bool = True) -> None:
        """Packs; gathering and multiplying read the same bytes."""
        assert self._codes is not None, "finished twice"
        self._packed = torch.cat([_pack(piece) for piece in self._codes.split(16 * _ROW_TILE)])
        self._codes = None

    def multiply(
        self, x: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
    ) -> Tensor:
        """``[..., num_cols] -> [..., num_rows]``."""
        rows = x.reshape(-1, self.num_cols)
        y = self._by_codes(rows) if rows.shape[0] < _MANY_ROWS else self._by_pieces(rows)
        y = y[:, : self.num_rows].unflatten(0, x.shape[:-1])
        if bias is not None:
            y = y + bias
        return y if add_to is None else add_to.add_(y)

    def multiply_gated(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``[..., num_cols] -> [..., num_rows / 2]``."""
        return silu_mul(self.multiply(x, bias))

    def gather(self, rows: Tensor) -> Tensor:
        """Rows by index: ``[...] -> [..., num_cols]``."""
        flat = rows.reshape(-1)
        block, within = flat // self._block, flat % self._block
        half = self._block // 2
        # [rows, cols]: the byte that holds each code, in its lower or its upper half.
        pairs = self._blocks()[block, :, within % half]
        codes = (pairs >> (4 * (within // half)).to(torch.uint8)[:, None]) & 15
        scales, zeros = self._scales[:, flat].float().permute(2, 1, 0).unsqueeze(-1)
        weights = (codes.float() - MIDDLE).unflatten(-1, (-1, GROUP)).mul_(scales).add_(zeros)
        return weights.flatten(-2).bfloat16().unflatten(0, rows.shape)

    def dense(self) -> Tensor:
        """The whole matrix: ``[num_rows, num_cols]``."""
        pieces = [piece.transpose(1, 2).flatten(0, 1).bfloat16() for _, piece in self._pieces()]
        return torch.cat(pieces)[: self.num_rows]

    def _by_codes(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._scales)

    def _by_pieces(self, x: Tensor) -> Tensor:
        wide = x.float()
        y = x.new_empty(x.shape[0], self._scales.shape[1])
        for first, piece in self._pieces():
            part = torch.matmul(wide, piece)  # [blocks, rows of x, rows of a block]
            y[:, first : first + part.shape[0] * part.shape[2]] = part.transpose(0, 1).flatten(1)
        return y

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        """The first row of each piece, and its weights: ``[blocks, num_cols, block]`` float32."""
        size, half = self._block, self._block // 2
        blocks = self._blocks().unflatten(1, (-1, GROUP))
        scales = self._scales.unflatten(1, (-1, size))
        step = max(1, _PIECE // (self.num_cols * size))
        for first in range(0, blocks.shape[0], step):
            pairs = blocks[first : first + step]
            wide = torch.empty(*pairs.shape[:3], size)
            wide[..., :half] = pairs & 15
            wide[..., half:] = pairs >> 4
            scale, zero = scales[:, first : first + step].float().permute(3, 1, 0, 2).unsqueeze(3)
            yield first * size, wide.sub_(MIDDLE).mul_(scale).add_(zero).flatten(1, 2)

    @property
    def _block(self) -> int:
        size = _block_rows()
        assert size is not None
        return size

    def _blocks(self) -> Tensor:
        """``[blocks, num_cols, block / 2]``: the codes of two rows in each byte."""
        return self._packed.view(-1, self.num_cols, self._block // 2)


def _padded(num_rows: int) -> int:
    return -(-num_rows // _ROW_TILE) * _ROW_TILE


def _pack(codes: Tensor) -> Tensor:
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)


@cache
def _block_rows() -> int | None:
    """Of how many rows torch packs a column together on this CPU; None: otherwise than known.

    The lower halves of a block's bytes are the first half of its rows, the upper ones the second
    (torch's aten/src/ATen/native/cpu/int4mm_kernel.cpp); how many rows follows the CPU's vectors.
    """
    codes = torch.arange(_ROW_TILE * GROUP, dtype=torch.int32).view(_ROW_TILE, GROUP) * 7 // 5 % 16
    packed = _pack(codes)
    for size in (64, 32, 16):
        pairs = packed.view(-1, GROUP, size // 2)
        rows = torch.cat((pairs & 15, pairs >> 4), dim=-1).transpose(1, 2).reshape(codes.shape)
        if torch.equal(rows.int(), codes):
            return size
    return None
