"""The model's part of a step with prompt chunks, as a CUDA graph for each of a few shapes.

Launched one by one, the kernels of 32 layers keep the host busy for some 20 ms: longer than an
H100 computes 512 tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.layers.lora import LoraMode
from ferrule.plan import LEAST_MIXED_TOKENS, step_tokens
from ferrule.runtime.decode_graphs import shared_prefix
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.graph_pool import GraphPool
from ferrule.runtime.kernel_attention import Rows, attends
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_slots import LoraSlots, padded
from ferrule.runtime.mixed_batch import (
    MixedBatch,
    MixedTensors,
    Shape,
    padding_numbers,
    tensors_of,
)
from ferrule.runtime.model import Model

ROWS = (32, 64, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 1792, 1920, 2048)
"""Tokens of a step; one that has more runs kernel by kernel, and takes longer than its launch."""
SINGLES = (8, 64, 256)
FIRST_SHAPES = ((2048, 8), (512, 64), (512, 8), (128, 8))
"""Rows and singles that are captured first; their kernels are those of all others."""
_ROWS_A_TILE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """What the model gave for a step; overwritten by the next of its shape.

    Attributes:
        inputs: The step's.
        hidden: ``[rows, hidden_size]``, or if it is narrow only of ``inputs.sample_rows``.
        is_narrow: Whether only those.
    """

    inputs: MixedTensors
    hidden: Tensor
    is_narrow: bool

    def of_samples(self, count: int) -> Tensor:
        """``[count, hidden_size]``: the rows that give a token."""
        if self.is_narrow:
            return self.hidden[:count]
        return self.hidden[self.inputs.sample_rows[:count]]


class MixedGraphs:
    """Runs steps with prompt chunks in them.

    Args:
        model: Loaded, on the device.
        cache: Keys and values.
        slots: Last tokens, lengths and block tables.
        max_tokens: Most tokens of a step.
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
        *,
        max_tokens: int,
        pool: GraphPool | None,
        loras: LoraSlots | None = None,
    ) -> None:
        self._model = model
        self._specs = model.attention_specs()
        self._cache = cache
        self._slots = slots
        self._max_tokens = max_tokens
        self._num_slots = slots.padding_slot
        self._scrap_row = cache.scrap_block * cache.block_size
        self._graphs: dict[Shape, tuple[torch.cuda.CUDAGraph, Tensor, MixedTensors, Tensor]] = {}
        self._loras = loras
        self.warm: frozenset[LoraMode] = frozenset()
        self.pool = pool

    def drop_lora(self) -> None:
        """Forgets what was captured for rows with adapters: layers have more to do for them."""
        self._graphs = {shape: made for shape, made in self._graphs.items() if not shape.lora}
        self.warm &= {LoraMode.OFF}

    @property
    def shapes(self) -> list[Shape]:
        """Those that have a graph."""
        return list(self._graphs)

    def first_shapes(self) -> list[Shape]:
        """Shapes to capture before the first request, largest first."""
        found = [
            padded_shape(Shape(rows, singles, 0), num_slots=self._num_slots)
            for rows, singles in FIRST_SHAPES
            if rows <= self._max_tokens and singles <= rows
        ]
        return list(dict.fromkeys(shape for shape in found if shape is not None))

    def with_lora(self, shape: Shape) -> Shape:
        """The shape of the same step with low-rank products for some of its rows."""
        assert self._loras is not None
        return replace(shape, lora=LoraMode.DELTAS, num_loras=self._loras.sizes.num_slots)

    def missing(self, *, shares: bool = False) -> list[Shape]:
        """Shapes without a graph that steps will take, the likeliest first.

        Args:
            shares: Whether graphs for single tokens that share blocks are meant.
        """
        likely = likely_shapes(max_tokens=self._max_tokens, num_slots=self._num_slots)
        shapes = [replace(shape, shares=shares) for shape in likely]
        if self._loras is not None and self._loras.version:
            shapes += [self.with_lora(shape) for shape in shapes]
        return [shape for shape in shapes if shape not in self._graphs]

    def run(self, batch: MixedBatch, *, wants_all: bool = False) -> Computed:
        """Launches the model on a batch.

        Args:
            batch: What runs.
            wants_all: Whether the rows that give no token are wanted too.
        """
        shape, pool = None, self.pool
        if not wants_all and batch.shape.lora is not LoraMode.OWN:
            shape = padded_shape(batch.shape, num_slots=self._num_slots)
        if pool is None or shape is None:
            return self._run_plain(batch, batch.shape, wants_all=wants_all)
        if shape not in self._graphs:
            if not pool.may_capture():
                # Padded all the same: kernels are compiled for how inputs lie beside each other.
                return self._run_plain(batch, shape)
            self.capture(shape)
        graph, numbers, inputs, hidden = self._graphs[shape]
        host = batch.numbers(shape, num_slots=self._num_slots, scrap_row=self._scrap_row)
        numbers.copy_(_pinned(host), non_blocking=True)
        graph.replay()
        return Computed(inputs=inputs, hidden=hidden, is_narrow=self._narrows(shape))

    def _run_plain(self, batch: MixedBatch, shape: Shape, *, wants_all: bool = False) -> Computed:
        host = batch.numbers(shape, num_slots=self._num_slots, scrap_row=self._scrap_row)
        source = torch.from_numpy(host) if self._slots.device.type == "cpu" else _pinned(host)
        numbers = source.to(self._slots.device, non_blocking=True)
        inputs = tensors_of(numbers, shape, num_slots=self._num_slots)
        is_narrow = self._narrows(shape) and not wants_all
        if self._loras is not None and shape.lora is LoraMode.OWN:
            rows = [batch.wanted]
            if is_narrow:
                rows.append(padded(batch.sample_wanted, self._num_slots))
            applying = self._loras.using(*rows)
        else:
            applying = self._applying(inputs, shape)
        with applying:
            hidden = self._step(inputs, shape, is_narrow=is_narrow)
        return Computed(inputs=inputs, hidden=hidden, is_narrow=is_narrow)

    def _narrows(self, shape: Shape) -> bool:
        """Whether the last layer leaves out rows that give no token: in prompts, nearly all."""
        can = bool(getattr(self._model, "narrows", False))
        return can and shape.num_tiles > 0 and shape.num_rows > self._num_slots

    def capture(self, shape: Shape) -> None:
        """Makes the graph of a shape."""
        assert self.pool is not None
        # What runs here touches no sequence: all rows pad.
        host = padding_numbers(shape, num_slots=self._num_slots, scrap_row=self._scrap_row)
        numbers = torch.from_numpy(host).to(self._slots.device)
        inputs = tensors_of(numbers, shape, num_slots=self._num_slots)
        is_narrow = self._narrows(shape)
        is_known = shape.lora in self.warm and not shape.shares
        with self._applying(inputs, shape):
            graph, hidden = self.pool.capture(
                lambda: self._step(inputs, shape, is_narrow=is_narrow), is_known=is_known
            )
        self._graphs[shape] = (graph, numbers, inputs, hidden)

    def _applying(self, inputs: MixedTensors, shape: Shape) -> AbstractContextManager[None]:
        """What layers called inside do for the adapters of rows."""
        if self._loras is None or not shape.lora:
            return nullcontext()
        return self._loras.state.using(shape.lora, inputs.lora_rows())

    def _step(self, inputs: MixedTensors, shape: Shape, *, is_narrow: bool) -> Tensor:
        slots, num_singles = self._slots, shape.num_singles
        tokens = inputs.tokens
        if num_singles:
            sampled = slots.last_tokens[inputs.single_slots]
            known = tokens[:num_singles]
            first = torch.where(inputs.is_sampled > 0, sampled, known)
            tokens = torch.cat((first, tokens[num_singles:]))
        slots.place(inputs.slots, inputs.ends)
        rows = Rows(
            cache_rows=inputs.cache_rows,
            tables=slots.tables[inputs.single_slots],
            lengths=inputs.single_lengths,
            slot_tables=slots.tables,
            tiles=inputs.tiles if shape.num_tiles else None,
            query_tile=shape.query_tile,
            shared=shared_prefix(slots, inputs.single_starts, inputs.shared)
            if shape.shares
            else None,
        )
        kept = inputs.sample_rows if is_narrow else None
        bound = attends(self._specs, self._cache, rows, kept)
        return self._model(tokens, inputs.positions, bound)


def padded_shape(shape: Shape, *, num_slots: int) -> Shape | None:
    """The shape whose graph a step takes; None: it runs without one."""
    rows = next((count for count in ROWS if count >= shape.num_rows), None)
    singles = next((count for count in SINGLES if count >= shape.num_singles), num_slots)
    if rows is None:
        return None
    rows = max(rows, next(count for count in ROWS if count >= min(singles, ROWS[-1])))
    singles = min(singles, rows)
    num_tiles = rows // _ROWS_A_TILE
    if shape.num_tiles > num_tiles or shape.num_singles > singles:
        return None
    return replace(shape, num_rows=rows, num_singles=singles, num_tiles=num_tiles)


def likely_shapes(*, max_tokens: int, num_slots: int) -> list[Shape]:
    """What steps take: full ones beside streams, then ends of prompts, then prompts alone.

    Args:
        max_tokens: Most tokens of a step.
        num_slots: Most sequences at a time.
    """
    # The fewest single tokens for each number of them that has graphs.
    counts = (1, *(count + 1 for count in SINGLES))
    full = [
        (step_tokens(count, total, max_tokens), count)
        for total in range(2, num_slots + 1)
        for count in counts
        if count < total
    ]
    streams = [min(count, num_slots - 1) for count in SINGLES]
    ends = [(rows, count) for rows in ROWS if rows < LEAST_MIXED_TOKENS for count in streams]
    alone = [(rows, 0) for rows in reversed(ROWS)]
    found = [
        padded_shape(Shape(max(min(rows, max_tokens), count), count, 0), num_slots=num_slots)
        for rows, count in (*full, *ends, *alone)
    ]
    return list(dict.fromkeys(shape for shape in found if shape is not None))


def _pinned(numbers: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(numbers).pin_memory()
