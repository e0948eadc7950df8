"""A step of pure decode as one CUDA graph: from the slots' last tokens to their next ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.kernels.overlap import overlapping
from ferrule.kernels.shared import SharedPrefix
from ferrule.layers.lora import LoraChunks, LoraMode, LoraRows
from ferrule.runtime.device_sampling import Described, DeviceSampling, Needs, describe
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.graph_pool import GraphPool
from ferrule.runtime.kernel_attention import Rows, attends
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_slots import (
    LoraSlots,
    chunk_size,
    fill_chunks,
    num_chunks,
    padded,
    widened,
)
from ferrule.runtime.model import Model
from ferrule.runtime.packet import send
from ferrule.runtime.shared_blocks import SharedBlocks

FIRST_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that are captured before the first request; others when they are first met."""


class GraphKey(NamedTuple):
    """What a graph is made for.

    Attributes:
        size: Rows.
        needs: Of the sampler.
        shares: Whether blocks that many rows begin with are read once.
        lora: What rows need of adapters.
    """

    size: int
    needs: Needs = Needs()
    shares: bool = False
    lora: LoraMode = LoraMode.OFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """What a step gives, on the device; overwritten by the next.

    Attributes:
        tokens: ``[rows]`` int64.
        described: Where the step was asked for log probabilities.
    """

    tokens: Tensor
    described: Described | None


class DecodeGraphs:
    """One graph for each size of batch and each need of the sampler that occurs.

    A batch of another size takes the next larger graph; rows that pad it belong to a slot of
    their own. All that a step reads and writes is on the device, by slot, so a step with the
    sequences of the one before needs nothing from the host but the launch.

    Args:
        model: Loaded, on a CUDA device.
        cache: Keys and values.
        slots: Last tokens, lengths and block tables.
        sampling: The slots' settings.
        pool: Makes the graphs; None: no graphs, the same step runs kernel by kernel.
        loras: The model's adapters; None: it takes none.

    Attributes:
        warm: What rows may need of adapters in a step without more whose kernels have all run.
        pool: As given.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        slots: DeviceSlots,
        sampling: DeviceSampling,
        *,
        pool: GraphPool | None,
        loras: LoraSlots | None = None,
    ) -> None:
        self._model = model
        self._specs = model.attention_specs()
        self._cache = cache
        self._slots = slots
        self._sampling = sampling
        self._most = slots.padding_slot
        # Which slot each row of the batch is and how much of it is shared, the slot and length of
        # what is, and the chunks of rows with adapters; sent when the batch has changed.
        self._loras = loras
        self._num_chunks = num_chunks(self._most, loras.sizes.num_slots) if loras else 0
        self._chunk_size = chunk_size(self._most)
        chunks = (self._num_chunks, self._num_chunks * self._chunk_size)
        self._sizes = (self._most, self._most, 2, *chunks)
        self._inputs = torch.zeros(sum(self._sizes), dtype=torch.int64, device=slots.device)
        self._rows, self._starts, self._shared, self._chunk_slots, rows = self._inputs.split(
            self._sizes
        )
        self._chunk_rows = rows.view(-1, self._chunk_size)
        self._rows.fill_(slots.padding_slot)
        self._sent: object = None
        self._graphs: dict[GraphKey, tuple[torch.cuda.CUDAGraph, Sampled]] = {}
        self.warm: frozenset[LoraMode] = frozenset()
        self.pool = pool

    @property
    def keys(self) -> list[GraphKey]:
        """What there are graphs for."""
        return sorted(self._graphs)

    def first_sizes(self) -> list[int]:
        """Sizes to capture before the first request, largest first."""
        return [size for size in reversed(FIRST_SIZES) if size <= self._most]

    def missing(self, *, shares: bool = False) -> list[GraphKey]:
        """Every size without a graph, for samplers that need nothing; the smallest first.

        Args:
            shares: Whether graphs for rows that share blocks are meant, which one alone cannot.
        """
        least = 2 if shares else 1
        sizes = {graph_size(num_rows, self._most) for num_rows in range(least, self._most + 1)}
        keys = [GraphKey(size, shares=shares) for size in sorted(sizes)]
        if self._loras is not None and self._loras.version:
            keys += [key._replace(lora=LoraMode.DELTAS) for key in keys]
        return [key for key in keys if key not in self._graphs]

    def run(self, slots: Sequence[int], needs: Needs, shared: SharedBlocks | None) -> Sampled:
        """Launches one step.

        Args:
            slots: Of the sequences that decode.
            needs: Of these slots.
            shared: What many of them begin with.

        Returns:
            Their next tokens, in the same order.
        """
        size = graph_size(len(slots), self._most)
        wanted = self._wanted(slots)
        lora = LoraMode.OFF if self._loras is None else self._loras.mode(wanted)
        key = GraphKey(size, needs, shared is not None, lora)
        self._sampling.prepare(needs)
        pool = None if lora is LoraMode.OWN else self.pool
        if pool is not None and key not in self._graphs and pool.may_capture():
            self.capture(key)
        # A slot may have been taken again, so what is shared and which adapters count as well.
        batch = (tuple(slots), None if shared is None else shared.identity, wanted.tobytes())
        if batch != self._sent:
            self._send(key, slots, shared, wanted)
            self._sent = batch
        if pool is None or key not in self._graphs:
            return self._step(key, wanted)
        graph, sampled = self._graphs[key]
        graph.replay()
        return sampled

    def drop_lora(self) -> None:
        """Forgets what was captured for rows with adapters: layers have more to do for them."""
        self._graphs = {key: made for key, made in self._graphs.items() if not key.lora}
        self.warm &= {LoraMode.OFF}

    def _wanted(self, slots: Sequence[int]) -> NDArray[np.int64]:
        """``[slots]``: the adapter slots that these want; -1: none."""
        if self._loras is None:
            return np.full(len(slots), -1, dtype=np.int64)
        return self._loras.of(slots)

    def _send(
        self,
        key: GraphKey,
        slots: Sequence[int],
        shared: SharedBlocks | None,
        wanted: NDArray[np.int64],
    ) -> None:
        inputs = np.zeros(len(self._inputs), dtype=np.int64)
        rows, starts, of_shared, chunk_slots, chunk_rows = np.split(
            inputs, np.cumsum(self._sizes)[:-1]
        )
        rows.fill(self._slots.padding_slot)
        rows[: len(slots)] = slots
        if shared is not None:
            starts[: len(slots)] = shared.starts
            of_shared[:] = shared.slot, shared.num_tokens
        chunk_slots.fill(-1)
        chunk_rows.fill(-1)
        if key.lora:
            by_chunk = chunk_rows.reshape(-1, self._chunk_size)
            fill_chunks(padded(wanted, key.size), chunk_slots, by_chunk)
        self._inputs.copy_(send([inputs], self._slots.device)[0])

    def _applying(
        self, key: GraphKey, wanted: NDArray[np.int64] | None
    ) -> AbstractContextManager[None]:
        """What layers called inside do for the adapters of rows."""
        if self._loras is None or not key.lora:
            return nullcontext()
        if wanted is not None and key.lora is LoraMode.OWN:
            return self._loras.using(padded(wanted, key.size))
        count = num_chunks(key.size, self._loras.sizes.num_slots)
        chunks = LoraChunks(slots=self._chunk_slots[:count], rows=self._chunk_rows[:count])
        return self._loras.state.using(key.lora, {key.size: LoraRows(chunks=chunks)})

    def _step(self, key: GraphKey, wanted: NDArray[np.int64] | None = None) -> Sampled:
        slots, sampling = self._slots, self._sampling
        row = self._rows[: key.size]
        tokens, positions, lengths, cache_rows = slots.begin(row)
        rows = Rows(
            cache_rows=cache_rows,
            tables=slots.tables[row],
            lengths=lengths,
            slot_tables=slots.tables,
            are_apart=True,
            shared=shared_prefix(slots, self._starts[: key.size], self._shared)
            if key.shares
            else None,
        )
        with self._applying(key, wanted):
            hidden = self._model(tokens, positions, attends(self._specs, self._cache, rows))
            logits = widened(self._model.logits(hidden), sampling.vocab_size)
        known = None
        if self._loras is not None and wanted is not None:
            known = self._loras.num_known_tokens(wanted, sampling.num_known_tokens)
        chosen = sampling.sample(logits, row, lengths, key.needs, known)
        described = describe(logits, chosen) if key.needs.logprobs else None
        slots.place(row, lengths, chosen)
        slots.lengths[slots.padding_slot :].zero_()
        return Sampled(tokens=chosen, described=described)

    def capture(self, key: GraphKey) -> None:
        """Makes a graph."""
        assert self.pool is not None
        is_known = key.lora in self.warm and key.needs == Needs() and not key.shares
        # What runs here must not touch a sequence: all rows pad.
        self._send(key, [], None, np.empty(0, dtype=np.int64))
        self._sent = None
        self._sampling.prepare(key.needs)
        overlaps = key.size == 1
        if overlaps and not is_known:
            # A prompt's first token is chosen outside of graphs, by kernels that do not overlap.
            self._step(key)
        with overlapping(overlaps):
            self._graphs[key] = self.pool.capture(lambda: self._step(key), is_known=is_known)


def shared_prefix(slots: DeviceSlots, starts: Tensor, shared: Tensor) -> SharedPrefix:
    """What attention needs to read shared blocks once.

    Args:
        slots: Block tables.
        starts: ``[rows]`` int64 tokens of each row in the shared blocks.
        shared: ``[2]`` int64: a slot that begins with them, and how many tokens they hold.
    """
    return SharedPrefix(starts=starts, table=slots.tables[shared[:1]][0], length=shared[1:])


def graph_size(num_rows: int, most: int) -> int:
    """The graph that a batch takes: powers of two to 16, then steps of 8, from 64 on of 32."""
    if num_rows <= 16:
        size = 1 << (num_rows - 1).bit_length()
    else:
        step = 8 if num_rows <= 64 else 32
        size = -(-num_rows // step) * step
    return min(size, most)
