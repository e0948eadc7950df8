"""A plan as tensors: what the model and its attention need for one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.plan import Chunk
from ferrule.runtime.slots import Slots


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRows:
    """The chunks of one token; they are the batch's first rows.

    Attributes:
        tables: ``[rows, blocks]`` block ids, padded with 0 behind each sequence's own.
        lengths: ``[rows]`` tokens in the cache, the new one included.
        masks: By window: ``[rows, 1, 1, blocks * block_size]``, 0 where a row may look and -inf
            elsewhere; no entry for a row that is alone, which takes ``spans`` instead.
        spans: By window, for a row that is alone: the places it looks at.
    """

    tables: Tensor
    lengths: Tensor
    masks: dict[int | None, Tensor]
    spans: dict[int | None, slice]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillRows:
    """One chunk of several tokens.

    Attributes:
        rows: Where its tokens are in the batch.
        start: How many tokens are in the cache before it.
        blocks: ``[blocks]`` ids of its block table.
        masks: By window: ``[tokens, start + tokens]``, 0 or -inf; no entry where causal is enough.
    """

    rows: slice
    start: int
    blocks: Tensor
    masks: dict[int | None, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's tensors.

    Attributes:
        tokens: ``[tokens]`` ids.
        positions: ``[tokens]``, each within its own sequence.
        cache_rows: ``[tokens]``: where in a layer's cache, seen as rows, each token goes.
        decode: The single-token chunks; None if there are none.
        prefills: The others.
        order: For each chunk of the plan, its rows in the batch.
    """

    tokens: Tensor
    positions: Tensor
    cache_rows: Tensor
    decode: DecodeRows | None
    prefills: list[PrefillRows] = field(default_factory=list[PrefillRows])
    order: list[slice] = field(default_factory=list[slice])


def make_batch(
    chunks: Sequence[Chunk],
    slots: Slots,
    *,
    windows: frozenset[int | None],
    dtype: torch.dtype,
    device: torch.device,
) -> Batch:
    """Gathers a plan's chunks from the slots, single-token chunks first.

    Args:
        chunks: Of the plan, after their new blocks have been added to the slots.
        slots: Tokens and block tables.
        windows: The sliding windows that the model's layers have.
        dtype: Of queries; masks are added to scores of this type.
        device: Where the tensors go.
    """
    singles = [i for i, chunk in enumerate(chunks) if chunk.num_tokens == 1]
    others = [i for i, chunk in enumerate(chunks) if chunk.num_tokens > 1]
    masker = Masker(windows=windows, dtype=dtype, device=device)
    order = [slice(0)] * len(chunks)
    tokens, positions, cache_rows = [], [], []
    num_rows = 0
    for i in (*singles, *others):
        chunk = chunks[i]
        span = np.arange(chunk.start, chunk.start + chunk.num_tokens)
        tokens.append(slots.tokens[chunk.slot, span])
        positions.append(span)
        cache_rows.append(slots.cache_rows(chunk.slot, span))
        order[i] = slice(num_rows, num_rows + chunk.num_tokens)
        num_rows += chunk.num_tokens

    def tensor(parts: list[NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    return Batch(
        tokens=tensor(tokens),
        positions=tensor(positions),
        cache_rows=tensor(cache_rows),
        decode=_decode_rows([chunks[i] for i in singles], slots, masker),
        prefills=[_prefill_rows(chunks[i], order[i], slots, masker) for i in others],
        order=order,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Masker:
    """Makes masks; once a step, so that no layer has to."""

    windows: frozenset[int | None]
    dtype: torch.dtype
    device: torch.device

    def mask(self, queries: Tensor, num_places: int, window: int | None) -> Tensor:
        """What is added to scores.

        Args:
            queries: ``[...]`` positions of the queries.
            num_places: Places from the sequence's first on.
            window: How many tokens back a query sees, itself included.

        Returns:
            ``[..., num_places]``: 0 where a query may look, -inf elsewhere.
        """
        queries = queries[..., None]
        places = torch.arange(num_places)
        hidden = places > queries
        if window is not None:
            hidden |= places <= queries - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype)
        return mask.masked_fill_(hidden, -torch.inf).to(self.device)


def _decode_rows(chunks: list[Chunk], slots: Slots, masker: Masker) -> DecodeRows | None:
    if not chunks:
        return None
    indices = [chunk.slot for chunk in chunks]
    lengths = torch.tensor([chunk.start + 1 for chunk in chunks])
    longest = int(lengths.max())
    num_blocks = -(-longest // slots.block_size)
    tables = torch.from_numpy(slots.block_tables[indices, :num_blocks])
    masks: dict[int | None, Tensor] = {}
    spans: dict[int | None, slice] = {}
    for window in masker.windows:
        if len(chunks) == 1:
            spans[window] = slice(max(0, longest - (window or longest)), longest)
        else:
            mask = masker.mask(lengths - 1, num_blocks * slots.block_size, window)
            masks[window] = mask[:, None, None]
    device = masker.device
    return DecodeRows(
        tables=tables.to(device), lengths=lengths.to(device), masks=masks, spans=spans
    )


def _prefill_rows(chunk: Chunk, rows: slice, slots: Slots, masker: Masker) -> PrefillRows:
    end = chunk.start + chunk.num_tokens
    masks = {
        window: masker.mask(torch.arange(chunk.start, end), end, window)
        for window in masker.windows
        # Without a mask: plain causal attention over the chunk itself.
        if chunk.start > 0 or (window is not None and window < end)
    }
    num_blocks = -(-end // slots.block_size)
    blocks = torch.from_numpy(slots.block_tables[chunk.slot, :num_blocks].copy())
    return PrefillRows(rows=rows, start=chunk.start, blocks=blocks.to(masker.device), masks=masks)
