"""A step of pure decode as one CUDA graph: from the slots' last tokens to their next ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ferrule.kernels.overlap import overlapping
from ferrule.runtime.device_sampling import Described, DeviceSampling, Needs, describe
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.kernel_attention import Rows, attends
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.model import Model
from ferrule.runtime.packet import send

GraphPool = tuple[int, int]
"""All graphs of a runner share one: they never run at the same time."""
FIRST_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that are captured before the first request; others when they are first met."""


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
        pool: Of the graphs' memory; None: no graphs, the same step runs kernel by kernel.
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
        # Which slot each row of the batch is; sent when the batch has changed.
        self._rows = torch.full(
            (self._most,), slots.padding_slot, dtype=torch.int64, device=slots.device
        )
        self._sent: tuple[int, ...] = ()
        self._graphs: dict[tuple[int, Needs], tuple[torch.cuda.CUDAGraph, Sampled]] = {}
        self.pool = pool

    @property
    def keys(self) -> list[tuple[int, Needs]]:
        """Sizes and needs that have a graph."""
        return sorted(self._graphs)

    def first_sizes(self) -> list[int]:
        """Sizes to capture before the first request, largest first."""
        return [size for size in reversed(FIRST_SIZES) if size <= self._most]

    def run(self, slots: Sequence[int], needs: Needs) -> Sampled:
        """Launches one step.

        Args:
            slots: Of the sequences that decode.
            needs: Of these slots.

        Returns:
            Their next tokens, in the same order.
        """
        size = graph_size(len(slots), self._most)
        wanted = (*slots, *[self._slots.padding_slot] * (size - len(slots)))
        self._sampling.prepare(needs)
        if self.pool and (size, needs) not in self._graphs:
            self.capture(size, needs)
        if wanted != self._sent:
            (rows,) = send([np.array(wanted, dtype=np.int64)], self._slots.device)
            self._rows[:size].copy_(rows)
            self._sent = wanted
        if not self.pool:
            return self._step(size, needs)
        graph, sampled = self._graphs[size, needs]
        graph.replay()
        return sampled

    def _step(self, size: int, needs: Needs) -> Sampled:
        slots, sampling = self._slots, self._sampling
        row = self._rows[:size]
        tokens, positions = slots.last_tokens[row], slots.lengths[row]
        lengths = positions + 1
        rows = Rows(
            cache_rows=slots.cache_rows(row, positions),
            tables=slots.tables[row],
            lengths=lengths,
            slot_tables=slots.tables,
        )
        hidden = self._model(tokens, positions, attends(self._specs, self._cache, rows))
        logits = self._model.logits(hidden)
        chosen = sampling.sample(logits, row, lengths, needs)
        described = describe(logits, chosen) if needs.logprobs else None
        slots.place(row, lengths, chosen)
        slots.lengths[slots.padding_slot :].zero_()
        return Sampled(tokens=chosen, described=described)

    def capture(self, size: int, needs: Needs) -> None:
        """Makes the graph of a size and what the sampler needs."""
        # What runs here must not touch a sequence: all rows pad.
        self._rows.fill_(self._slots.padding_slot)
        self._sent = ()
        self._sampling.prepare(needs)
        with overlapping(size == 1):
            # A first run compiles kernels and makes library handles, which a capture may not.
            self._step(size, needs)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                sampled = self._step(size, needs)
        self._graphs[size, needs] = (graph, sampled)


def graph_size(num_rows: int, most: int) -> int:
    """The graph that a batch takes: powers of two to 16, then steps of 8, from 64 on of 16."""
    if num_rows <= 16:
        size = 1 << (num_rows - 1).bit_length()
    else:
        step = 8 if num_rows <= 64 else 16
        size = -(-num_rows // step) * step
    return min(size, most)
