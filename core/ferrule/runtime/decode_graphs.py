"""A step of pure decode as one CUDA graph, so that the host launches it with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ferrule.plan import Chunk
from ferrule.runtime.attention import PagedAttention
from ferrule.runtime.batch import Batch, PagedRows
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.model import Model
from ferrule.runtime.slots import Slots

FIRST_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that are captured before the first request; others when they are first met."""


class DecodeGraphs:
    """One graph for each size of batch, over shared inputs.

    A batch of another size takes the next larger graph. Rows that pad it have length 0, so
    attention passes them over, and what they write goes to the cache's scrap block.

    Args:
        model: Loaded, on a CUDA device.
        attention: Bound to the cache.
        cache: Keys and values.
        slots: Tokens and block tables on the host.
    """

    def __init__(
        self, model: Model, attention: PagedAttention, cache: KVCache, slots: Slots
    ) -> None:
        self._model = model
        self._attention = attention
        self._slots = slots
        self._scrap = cache.scrap_block * cache.block_size
        num_slots, max_blocks = slots.block_tables.shape
        device = cache.layers[0].keys.device

        def column(value: int) -> Tensor:
            return torch.full((num_slots,), value, dtype=torch.int64, device=device)

        self._tokens, self._positions = column(0), column(0)
        self._lengths, self._rows = column(0), column(0)
        self._cache_rows = column(self._scrap)
        # By slot: a sequence's row changes only when it gets a block, not in every step.
        self._tables = torch.zeros(num_slots, max_blocks, dtype=torch.int32, device=device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that have a graph."""
        return sorted(self._graphs)

    def capture_first(self, report: Callable[[int, int], None]) -> None:
        """Captures the sizes that are used most; ``report`` gets how many of how many."""
        sizes = [size for size in FIRST_SIZES if size <= len(self._tokens)]
        # Largest first: the smaller ones then fit into the memory that it took.
        for done, size in enumerate(reversed(sizes), 1):
            self._capture(size)
            report(done, len(sizes))

    def grow(self, slot: int) -> None:
        """Takes over a slot's block table after it has grown."""
        count = int(self._slots.num_blocks[slot])
        table = torch.from_numpy(self._slots.block_tables[slot, :count])
        self._tables[slot, :count] = table.to(self._tables.device, torch.int32)

    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes one step.

        Args:
            chunks: Of one token each.

        Returns:
            ``[chunks, vocab_size]`` float32 logits, overwritten by the next step.
        """
        size = graph_size(len(chunks), len(self._tokens))
        if size not in self._graphs:
            self._capture(size)
        slots = [chunk.slot for chunk in chunks]
        starts = [chunk.start for chunk in chunks]
        padding = [0] * (size - len(chunks))
        self._set(self._tokens, [*self._slots.tokens[slots, starts].tolist(), *padding])
        self._set(self._positions, [*starts, *padding])
        self._set(self._lengths, [*(start + 1 for start in starts), *padding])
        self._set(self._rows, [*slots, *padding])
        cache_rows = self._slots.cache_rows(slots, starts).tolist()
        self._set(self._cache_rows, [*cache_rows, *([self._scrap] * len(padding))])
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[: len(chunks)]

    def _set(self, column: Tensor, values: list[int]) -> None:
        pinned = torch.tensor(values, dtype=torch.int64).pin_memory()
        column[: len(values)].copy_(pinned, non_blocking=True)

    def _capture(self, size: int) -> None:
        self._lengths.zero_()
        self._cache_rows.fill_(self._scrap)

        def step() -> Tensor:
            tables = self._tables.index_select(0, self._rows[:size])
            rows = slice(0, size)
            batch = Batch(
                tokens=self._tokens[rows],
                positions=self._positions[rows],
                cache_rows=self._cache_rows[rows],
                paged=PagedRows(rows=rows, tables=tables, lengths=self._lengths[rows]),
            )
            attends = self._attention.attends(batch)
            return self._model.logits(self._model(batch.tokens, batch.positions, attends)).float()

        # A first run compiles kernels and makes library handles, which a capture may not.
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = step()
        self._graphs[size] = (graph, logits)


def graph_size(num_rows: int, most: int) -> int:
    """The graph that a batch takes: powers of two to 16, then steps of 8, from 64 on of 16."""
    if num_rows <= 16:
        size = 1 << (num_rows - 1).bit_length()
    else:
        step = 8 if num_rows <= 64 else 16
        size = -(-num_rows // step) * step
    return min(size, most)
