"""A step of pure decode as one CUDA graph: from the slots' last tokens to their next ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ferrule.kernels.overlap import overlapping
from ferrule.kernels.shared import SharedPrefix
from ferrule.runtime.device_sampling import Described, DeviceSampling, Needs, describe
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.graph_pool import GraphPool
from ferrule.runtime.kernel_attention import Rows, attends
from ferrule.runtime.kv_cache import KVCache
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
    """

    size: int
    needs: Needs = Needs()
    shares: bool = False


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
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        slots: DeviceSlots,
        sampling: DeviceSampling,
        *,
        pool: GraphPool | None,
    ) -> None:
        self._model = model
        self._specs = model.attention_specs()
        self._cache = cache
        self._slots = slots
        self._sampling = sampling
        self._most = slots.padding_slot
        # Which slot each row of the batch is and how much of it is shared, and the slot and length
        # of what is; sent when the batch has changed.
        self._inputs = torch.zeros(2 * self._most + 2, dtype=torch.int64, device=slots.device)
        self._rows, self._starts, self._shared = self._inputs.split((self._most, self._most, 2))
        self._rows.fill_(slots.padding_slot)
        self._sent: tuple[tuple[int, ...], tuple[int, int, bytes] | None] = ((), None)
        self._graphs: dict[GraphKey, tuple[torch.cuda.CUDAGraph, Sampled]] = {}
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
        key = GraphKey(size, needs, shared is not None)
        self._sampling.prepare(needs)
        if self.pool and key not in self._graphs:
            self.capture(key)
        # A slot may have been taken again, so what is shared counts as well.
        batch = (tuple(slots), None if shared is None else shared.identity)
        if batch != self._sent:
            self._send(slots, shared)
            self._sent = batch
        if not self.pool:
            return self._step(key)
        graph, sampled = self._graphs[key]
        graph.replay()
        return sampled

    def _send(self, slots: Sequence[int], shared: SharedBlocks | None) -> None:
        inputs = np.zeros(len(self._inputs), dtype=np.int64)
        inputs[: self._most] = self._slots.padding_slot
        inputs[: len(slots)] = slots
        if shared is not None:
            inputs[self._most : self._most + len(slots)] = shared.starts
            inputs[-2:] = shared.slot, shared.num_tokens
        self._inputs.copy_(send([inputs], self._slots.device)[0])

    def _step(self, key: GraphKey) -> Sampled:
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
        hidden = self._model(tokens, positions, attends(self._specs, self._cache, rows))
        logits = self._model.logits(hidden)
        chosen = sampling.sample(logits, row, lengths, key.needs)
        described = describe(logits, chosen) if key.needs.logprobs else None
        slots.place(row, lengths, chosen)
        slots.lengths[slots.padding_slot :].zero_()
        return Sampled(tokens=chosen, described=described)

    def capture(self, key: GraphKey, *, is_known: bool = False) -> None:
        """Makes a graph; known: of kernels that have run before."""
        assert self.pool is not None
        # What runs here must not touch a sequence: all rows pad.
        self._send([], None)
        self._sent = ((), None)
        self._sampling.prepare(key.needs)
        with overlapping(key.size == 1):
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
