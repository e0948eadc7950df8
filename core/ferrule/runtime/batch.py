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

MAX_GATHERED_TOKENS = 1 << 18
"""Places of the cache, padding included, that one group of decode rows looks at: they are copied
for attention, so this bounds the memory of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRows:
    """Chunks of one token whose sequences are of similar length.

    Attributes:
        rows: Where they are in the batch.
        tables: ``[rows, blocks]`` block ids; behind each sequence's own stands the padding block.
        masks: By window: ``[rows, 1, 1, blocks * block_size]``, 0 where a row may look and -inf
            elsewhere; no entry for a row that is alone on a CPU, which takes ``spans`` instead.
        spans: By window, for a row that is alone on a CPU: the places it looks at. (A CUDA
            device has kernels to choose and plans to make for every new length.)
    """

    rows: slice
    tables: Tensor
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
        decodes: The single-token chunks, in groups; they are the batch's first rows.
        prefills: The others.
        order: For each chunk of the plan, its rows in the batch.
    """

    tokens: Tensor
    positions: Tensor
    cache_rows: Tensor
    decodes: list[DecodeRows] = field(default_factory=list[DecodeRows])
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
    """Gathers a plan's chunks from the slots, single-token chunks first, the longest before all.

    Args:
        chunks: Of the plan, after their new blocks have been added to the slots.
        slots: Tokens and block tables.
        windows: The sliding windows that the model's layers have.
        dtype: Of queries; masks are added to scores of this type.
        device: Where the tensors go.
    """
    singles = [i for i, chunk in enumerate(chunks) if chunk.num_tokens == 1]
    singles.sort(key=lambda i: -chunks[i].start)
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
        decodes=_decode_groups([chunks[i] for i in singles], slots, masker),
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
        queries = queries.to(self.device)[..., None]
        places = torch.arange(num_places, device=self.device)
        hidden = places > queries
        if window is not None:
            hidden |= places <= queries - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(hidden, -torch.inf)


def _decode_groups(chunks: list[Chunk], slots: Slots, masker: Masker) -> list[DecodeRows]:
    """Cuts chunks, longest sequences first, where their padded sizes would add up to too much."""
    groups: list[DecodeRows] = []
    first = 0
    while first < len(chunks):
        num_blocks = -(-(chunks[first].start + 1) // slots.block_size)
        most = max(1, MAX_GATHERED_TOKENS // (num_blocks * slots.block_size))
        group = chunks[first : first + most]
        groups.append(_decode_rows(group, first, slots, masker))
        first += len(group)
    return groups


def _decode_rows(chunks: list[Chunk], first: int, slots: Slots, masker: Masker) -> DecodeRows:
    longest = chunks[0].start + 1
    num_blocks = -(-longest // slots.block_size)
    tables = slots.block_tables[[chunk.slot for chunk in chunks], :num_blocks]
    positions = torch.tensor([chunk.start for chunk in chunks])
    masks: dict[int | None, Tensor] = {}
    spans: dict[int | None, slice] = {}
    for window in masker.windows:
        if len(chunks) == 1 and masker.device.type == "cpu":
            spans[window] = slice(max(0, longest - (window or longest)), longest)
        else:
            mask = masker.mask(positions, num_blocks * slots.block_size, window)
            masks[window] = mask[:, None, None]
    return DecodeRows(
        rows=slice(first, first + len(chunks)),
        tables=torch.from_numpy(tables).to(masker.device),
        masks=masks,
        spans=spans,
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
