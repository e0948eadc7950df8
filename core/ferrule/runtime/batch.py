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
        masks: By window: ``[rows, 1, 1, blocks * block_size]``, true where a row may look.
    """

    tables: Tensor
    lengths: Tensor
    masks: dict[int | None, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillRows:
    """One chunk of several tokens.

    Attributes:
        rows: Where its tokens are in the batch.
        start: How many tokens are in the cache before it.
        blocks: ``[blocks]`` ids of its block table.
        masks: By window: ``[tokens, start + tokens]``; no entry where causal is enough.
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
    device: torch.device,
) -> Batch:
    """Gathers a plan's chunks from the slots, single-token chunks first.

    Args:
        chunks: Of the plan, after their new blocks have been added to the slots.
        slots: Tokens and block tables.
        windows: The sliding windows that the model's layers have.
        device: Where the tensors go.
    """
    singles = [i for i, chunk in enumerate(chunks) if chunk.num_tokens == 1]
    others = [i for i, chunk in enumerate(chunks) if chunk.num_tokens > 1]
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
        decode=_decode_rows([chunks[i] for i in singles], slots, windows, device),
        prefills=[_prefill_rows(chunks[i], order[i], slots, windows, device) for i in others],
        order=order,
    )


def _decode_rows(
    chunks: list[Chunk], slots: Slots, windows: frozenset[int | None], device: torch.device
) -> DecodeRows | None:
    if not chunks:
        return None
    indices = [chunk.slot for chunk in chunks]
    lengths = torch.tensor([chunk.start + 1 for chunk in chunks])
    num_blocks = -(-int(lengths.max()) // slots.block_size)
    tables = torch.from_numpy(slots.block_tables[indices, :num_blocks])
    places = torch.arange(num_blocks * slots.block_size)
    masks: dict[int | None, Tensor] = {}
    for window in windows:
        mask = places < lengths[:, None]
        if window is not None:
            mask &= places >= lengths[:, None] - window
        masks[window] = mask[:, None, None].to(device)
    return DecodeRows(tables=tables.to(device), lengths=lengths.to(device), masks=masks)


def _prefill_rows(
    chunk: Chunk,
    rows: slice,
    slots: Slots,
    windows: frozenset[int | None],
    device: torch.device,
) -> PrefillRows:
    end = chunk.start + chunk.num_tokens
    masks: dict[int | None, Tensor] = {}
    for window in windows:
        if chunk.start == 0 and (window is None or window >= end):
            continue  # plain causal attention over the chunk itself
        queries = torch.arange(chunk.start, end, device=device)[:, None]
        keys = torch.arange(end, device=device)[None]
        mask = keys <= queries
        if window is not None:
            mask &= keys > queries - window
        masks[window] = mask
    num_blocks = -(-end // slots.block_size)
    blocks = torch.from_numpy(slots.block_tables[chunk.slot, :num_blocks].copy()).to(device)
    return PrefillRows(rows=rows, start=chunk.start, blocks=blocks, masks=masks)
