"""GGUF blocks to planes (kernels/plane_layout.py), on whatever device the blocks are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ferrule.kernels.plane_layout import GROUPS, TILE, PlaneLayout, Planes
from ferrule.quantization.gguf_blocks import DEQUANTIZERS
from ferrule.quantization.packed_fields import SPLITTERS, BlockFields


def empty_planes(layout: PlaneLayout, num_rows: int, num_cols: int, device: torch.device) -> Planes:
    """Room for a matrix; what pads it is zero."""
    tiles, cols = -(-num_rows // TILE), layout.padded(num_cols)
    chunks, group = cols // layout.chunk, layout.group
    per_chunk = 1 if layout.has_tops else 2
    has_minima = layout.has_minimum and layout.scales != "nibbles"
    words = chunks * layout.low_words // layout.low_span

    def plane(count: int, width: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(tiles, count, width, dtype=dtype, device=device)

    return Planes(
        low=plane(words, TILE * group, torch.int16),
        high=plane(
            chunks // layout.high_span if layout.high_bits else 0, TILE * group, torch.int16
        ),
        scale=plane(chunks, per_chunk * TILE, torch.int32),
        minimum=plane(chunks if has_minima else 0, per_chunk * TILE, torch.int32),
        top=plane(cols // 256 if layout.has_tops else 0, TILE, torch.int32),
    )


def write_rows(planes: Planes, layout: PlaneLayout, start: int, data: Tensor, name: str) -> None:
    """Stores rows.

    Args:
        planes: Written to.
        layout: Of the planes.
        start: First row.
        data: ``[rows, row_bytes]`` uint8, on the planes' device.
        name: Of the blocks' type.
    """
    block_bytes = DEQUANTIZERS[name].block_bytes
    found = SPLITTERS[name](data.unflatten(-1, (-1, block_bytes)))
    codes = found.codes.flatten(1)
    pad = layout.padded(codes.shape[1]) - codes.shape[1]
    row = torch.arange(start, start + data.shape[0], device=data.device)
    tile, place = row // TILE, row % TILE

    def put(plane: Tensor, words: Tensor) -> None:
        """``words``: ``[rows, count, width]``; those of a row are neighbours."""
        plane.unflatten(2, (TILE, -1))[tile, :, place] = words

    def put_by_column(plane: Tensor, words: Tensor) -> None:
        """``words``: ``[rows, count, width]``; those of a column are neighbours."""
        plane.unflatten(2, (-1, TILE))[tile, :, :, place] = words

    codes = F.pad(codes, (0, pad)).unflatten(1, (-1, GROUPS, layout.group))
    put(planes.low, _low_words(codes, layout))
    if layout.high_bits:
        high = codes >> layout.low_bits
        put(planes.high, _words(high, layout.high_bits, layout.high_span))
    put_by_column(planes.scale, _scale_words(found.scale, pad, layout))
    if planes.minimum.numel():
        assert found.minimum is not None
        put_by_column(planes.minimum, _scale_words(found.minimum, pad, layout))
    if layout.has_tops:
        words = _top_words(found)
        put_by_column(planes.top, F.pad(words, (0, 0, 0, planes.top.shape[1] - words.shape[1])))


def _low_words(codes: Tensor, layout: PlaneLayout) -> Tensor:
    """``[rows, chunks, 4, group]`` uint8 -> ``[rows, words, group]`` int16."""
    if layout.low_bits == 8:
        pairs = codes.unflatten(2, (2, 2)).int()
        return (pairs[:, :, :, 0] | (pairs[:, :, :, 1] << 8)).to(torch.int16).flatten(1, 2)
    return _words(codes & ((1 << layout.low_bits) - 1), layout.low_bits, layout.low_span)


def _words(codes: Tensor, bits: int, span: int) -> Tensor:
    """Packs the fields of ``span`` chunks: ``[rows, chunks / span, group]`` int16."""
    parts = codes.unflatten(1, (-1, span)).flatten(2, 3).int()
    word = parts[:, :, 0]
    for i in range(1, parts.shape[2]):
        word = word | (parts[:, :, i] << (i * bits))
    return word.to(torch.int16)


def _scale_words(values: Tensor, pad: int, layout: PlaneLayout) -> Tensor:
    """Four bytes or two halves a word: ``[rows, blocks, groups] -> [rows, chunks, words]``."""
    flat = F.pad(values.flatten(1), (0, pad // layout.group)).contiguous()
    return flat.view(torch.int32).unflatten(1, (-1, 1 if layout.has_tops else 2))


def _top_words(found: BlockFields) -> Tensor:
    """``[rows, blocks, 1]`` int32: two float16, or one widened."""
    assert found.top is not None
    if found.top_minimum is None:
        return found.top.view(torch.float16).float().view(torch.int32)
    return torch.cat([found.top, found.top_minimum], dim=-1).contiguous().view(torch.int32)
