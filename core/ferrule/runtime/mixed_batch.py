"""A step with prompt chunks in it, as one vector of numbers for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ferrule.layers.lora import LoraChunks, LoraMode, LoraRows
from ferrule.plan import Chunk
from ferrule.runtime.lora_slots import LoraSlots, chunk_size, fill_chunks, num_chunks, padded
from ferrule.runtime.shared_blocks import find_shared
from ferrule.runtime.slots import Slots

_FEW_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """How many of each thing a step has, padding included; a graph is made for a shape.

    Attributes:
        num_rows: Tokens.
        num_singles: Of them, those in front that the decode kernel looks at.
        num_tiles: Tiles of queries of the other rows.
        shares: Whether blocks that many single tokens' sequences begin with are read once.
        lora: What the rows need of adapters.
        num_loras: Slots of adapters; 0 if they need nothing.
    """

    num_rows: int
    num_singles: int
    num_tiles: int
    shares: bool = False
    lora: LoraMode = LoraMode.OFF
    num_loras: int = 0

    @property
    def query_tile(self) -> int:
        """Most queries in a tile: small ones where there are few tokens to fill the device."""
        return 64 if self.num_rows <= _FEW_ROWS else 128


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedTensors:
    """A step's inputs on the device, all int64; what pads them belongs to the padding slot.

    Attributes:
        tokens: ``[rows]`` ids, single tokens first.
        positions: ``[rows]``, each within its own sequence.
        cache_rows: ``[rows]``: where in a layer's cache, seen as rows, each token goes.
        single_slots: ``[singles]``.
        single_lengths: ``[singles]`` tokens in the cache, the new one included; 0 pads.
        is_sampled: ``[singles]``: 1 where the token is the one that the device sampled last.
        single_starts: ``[singles]`` tokens in the shared blocks; 0 for those that do not share.
        shared: ``[2]``: a slot that begins with the shared blocks, and how many tokens they hold.
        slots: ``[slots]`` all that have a chunk.
        ends: ``[slots]`` how many tokens each has in the cache after the step.
        sample_rows: ``[slots]`` rows whose logits give a token, in the plan's order.
        sample_slots: ``[slots]`` whose token it is.
        sample_positions: ``[slots]`` the index it will have in its sequence.
        tiles: ``[tiles, 4]``, what ``paged_prefill`` computes.
        chunk_slots: ``[chunks]`` adapter slots of chunks of rows; -1: none.
        chunk_rows: ``[chunks, size]`` their rows; -1: none.
        sample_chunk_slots: The same for the rows of ``sample_rows`` alone.
        sample_chunk_rows: Theirs, as places in ``sample_rows``.
    """

    tokens: Tensor
    positions: Tensor
    cache_rows: Tensor
    single_slots: Tensor
    single_lengths: Tensor
    is_sampled: Tensor
    single_starts: Tensor
    shared: Tensor
    slots: Tensor
    ends: Tensor
    sample_rows: Tensor
    sample_slots: Tensor
    sample_positions: Tensor
    tiles: Tensor
    chunk_slots: Tensor
    chunk_rows: Tensor
    sample_chunk_slots: Tensor
    sample_chunk_rows: Tensor

    def lora_rows(self) -> dict[int, LoraRows]:
        """Which rows want which adapter, for layers that get all rows, or those that sample."""
        of_all = LoraChunks(slots=self.chunk_slots, rows=self.chunk_rows)
        return {
            len(self.sample_rows): self.sample_lora_rows(),
            len(self.tokens): LoraRows(chunks=of_all),
        }

    def sample_lora_rows(self) -> LoraRows:
        """Those of ``sample_rows``."""
        chunks = LoraChunks(slots=self.sample_chunk_slots, rows=self.sample_chunk_rows)
        return LoraRows(chunks=chunks)


class MixedBatch:
    """One step's numbers on the host.

    Args:
        chunks: Of the plan, after their new blocks have been added to the slots.
        slots: Known tokens and block tables.
        loras: The adapters; None: there are none.

    Attributes:
        spans: For each chunk of the plan, its rows.
        wanted: ``[rows]`` the adapter slots that rows want; -1: none.
        shape: Without padding.
    """

    def __init__(
        self, chunks: Sequence[Chunk], slots: Slots, loras: LoraSlots | None = None
    ) -> None:
        self._chunks = chunks
        self._slots = slots
        self._singles = [i for i, chunk in enumerate(chunks) if chunk.num_tokens == 1]
        others = [i for i, chunk in enumerate(chunks) if chunk.num_tokens > 1]
        self._order = [*self._singles, *others]
        self.spans = [slice(0)] * len(chunks)
        self._tiles: list[tuple[int, int, int, int]] = []
        self._shared = find_shared(
            slots,
            [chunks[i].slot for i in self._singles],
            [chunks[i].start + 1 for i in self._singles],
        )
        num_rows = sum(chunk.num_tokens for chunk in chunks)
        query_tile = Shape(num_rows, 0, 0).query_tile
        row = 0
        for i in self._order:
            chunk = chunks[i]
            self.spans[i] = slice(row, row + chunk.num_tokens)
            if chunk.num_tokens > 1:
                self._tiles += _tiles(chunk, row, query_tile)
            row += chunk.num_tokens
        # Those with the most keys take longest, so they start first.
        self._tiles.sort(key=lambda tile: -(tile[2] + tile[3]))
        shares = self._shared is not None
        self.wanted: NDArray[np.int64] = np.full(row, -1, dtype=np.int64)
        mode, num_loras = LoraMode.OFF, 0
        if loras is not None:
            of_chunks = loras.of([chunk.slot for chunk in chunks])
            for rows, lora in zip(self.spans, of_chunks, strict=True):
                self.wanted[rows] = lora
            mode = loras.mode(self.wanted)
            num_loras = loras.sizes.num_slots if mode else 0
        self.shape = Shape(row, len(self._singles), len(self._tiles), shares, mode, num_loras)

    @property
    def sample_wanted(self) -> NDArray[np.int64]:
        """The adapter slots that the rows want which give a token, in the plan's order."""
        samples = [i for i, chunk in enumerate(self._chunks) if chunk.samples]
        return self.wanted[[self.spans[i].stop - 1 for i in samples]]

    def numbers(self, shape: Shape, *, num_slots: int, scrap_row: int) -> NDArray[np.int64]:
        """All inputs one after another, padded to a shape.

        Args:
            shape: At least as large as the batch's own in each respect.
            num_slots: Most sequences at a time; the slot of this number is the padding's.
            scrap_row: Where in the cache rows that pad are written.
        """
        chunks, slots = self._chunks, self._slots
        out = padding_numbers(shape, num_slots=num_slots, scrap_row=scrap_row)
        parts = _split(out, shape, num_slots)
        tokens, positions, cache_rows, single_slots, lengths, is_sampled, starts = parts[:7]
        shared, all_slots, ends, sample_rows, sample_slots, sample_positions, tiles = parts[7:14]
        for i in self._order:
            chunk, rows = chunks[i], self.spans[i]
            span = np.arange(chunk.start, chunk.start + chunk.num_tokens)
            tokens[rows] = slots.tokens[chunk.slot, span]
            positions[rows] = span
            cache_rows[rows] = slots.cache_rows(chunk.slot, span)
        for row, i in enumerate(self._singles):
            chunk = chunks[i]
            single_slots[row] = chunk.slot
            lengths[row] = chunk.start + 1
            is_sampled[row] = chunk.start >= slots.num_tokens[chunk.slot]
        if self._shared is not None:
            starts[: len(self._singles)] = self._shared.starts
            shared[:] = self._shared.slot, self._shared.num_tokens
        all_slots[: len(chunks)] = [chunk.slot for chunk in chunks]
        ends[: len(chunks)] = [chunk.start + chunk.num_tokens for chunk in chunks]
        samples = [i for i, chunk in enumerate(chunks) if chunk.samples]
        sample_rows[: len(samples)] = [self.spans[i].stop - 1 for i in samples]
        sample_slots[: len(samples)] = [chunks[i].slot for i in samples]
        sample_positions[: len(samples)] = ends[samples]
        if self._tiles:
            tiles.reshape(-1, 4)[: len(self._tiles)] = self._tiles
        if shape.num_loras:
            size, sample_size = chunk_size(shape.num_rows), chunk_size(num_slots)
            wanted = padded(self.wanted, shape.num_rows)
            sample_wanted = padded(self.sample_wanted, num_slots)
            fill_chunks(wanted, parts[14], parts[15].reshape(-1, size))
            fill_chunks(sample_wanted, parts[16], parts[17].reshape(-1, sample_size))
        return out


def padding_numbers(shape: Shape, *, num_slots: int, scrap_row: int) -> NDArray[np.int64]:
    """The inputs of a step in which every row pads."""
    out = np.zeros(sum(_sizes(shape, num_slots)), dtype=np.int64)
    parts = _split(out, shape, num_slots)
    _, _, cache_rows, single_slots, _, _, _, _, all_slots, _, _, sample_slots, _, _ = parts[:14]
    cache_rows.fill(scrap_row)
    for slots in (single_slots, all_slots, sample_slots):
        slots.fill(num_slots)
    for chunks in parts[14:]:
        chunks.fill(-1)
    return out


def tensors_of(numbers: Tensor, shape: Shape, *, num_slots: int) -> MixedTensors:
    """The inputs as views of the vector that ``MixedBatch.numbers`` made."""
    parts = numbers.split(_sizes(shape, num_slots))
    names = tuple(MixedTensors.__dataclass_fields__)
    views = dict(zip(names, parts, strict=True))
    views["tiles"] = views["tiles"].view(-1, 4)
    views["chunk_rows"] = views["chunk_rows"].view(-1, chunk_size(shape.num_rows))
    views["sample_chunk_rows"] = views["sample_chunk_rows"].view(-1, chunk_size(num_slots))
    return MixedTensors(**views)


def _sizes(shape: Shape, num_slots: int) -> list[int]:
    """Of each of ``MixedTensors``' attributes, in their order."""
    of_rows, of_singles = [shape.num_rows] * 3, [shape.num_singles] * 4
    of_chunks: list[int] = []
    for num_rows in (shape.num_rows, num_slots):
        count = num_chunks(num_rows, shape.num_loras) if shape.num_loras else 0
        of_chunks += [count, count * chunk_size(num_rows)]
    return [*of_rows, *of_singles, 2, *[num_slots] * 5, 4 * shape.num_tiles, *of_chunks]


def _split(numbers: NDArray[np.int64], shape: Shape, num_slots: int) -> list[NDArray[np.int64]]:
    ends = np.cumsum(_sizes(shape, num_slots))[:-1]
    return np.split(numbers, ends)


def _tiles(chunk: Chunk, row: int, query_tile: int) -> list[tuple[int, int, int, int]]:
    """Slot, first row, number of queries and first position of each tile of a chunk."""
    return [
        (
            chunk.slot,
            row + first,
            min(query_tile, chunk.num_tokens - first),
            chunk.start + first,
        )
        for first in range(0, chunk.num_tokens, query_tile)
    ]
