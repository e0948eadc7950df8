"""What a layer adds for adapters: low-rank products, gains and biases, chosen row by row.

Each layer owns a pool with room for a few adapters; all layers share one ``LoraState`` that says
which adapter each row of the step wants. A model's code knows nothing of either.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

HEAD = "lm_head"
"""What adapters call the output head, also where it is tied to the embedding."""


class LoraMode(IntEnum):
    """What the rows of a step need; each includes those before it.

    OFF: No row has an adapter, and layers do what they do without LoRA.
    DELTAS: Low-rank products alone.
    SCALED: Gains (DoRA) and biases too.
    OWN: Whole weights of an adapter's own, or embeddings of its own; never in a graph.
    """

    OFF = 0
    DELTAS = 1
    SCALED = 2
    OWN = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraChunks:
    """Rows of a step, some of one adapter at a time, as kernels take them.

    Attributes:
        slots: ``[chunks]`` int64 adapter slots; -1: the chunk is empty.
        rows: ``[chunks, size]`` int64 rows; -1 pads.
    """

    slots: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraRows:
    """Which rows of a step want which adapter; others want none.

    Attributes:
        groups: For plain torch: an adapter slot and its rows, as an index or a slice.
        chunks: For kernels; None: there is plain torch alone.
    """

    groups: Sequence[tuple[int, Tensor | slice]] = ()
    chunks: LoraChunks | None = None


class LoraState:
    """What all layers of a model know of the step that runs.

    Attributes:
        mode: What its rows need.
    """

    def __init__(self) -> None:
        self.mode = LoraMode.OFF
        self._by_count: Mapping[int, LoraRows] = {}

    @contextmanager
    def using(self, mode: LoraMode, rows: Mapping[int, LoraRows]) -> Generator[None]:
        """What holds for the layers called inside.

        Args:
            mode: What the rows need.
            rows: By how many rows a layer gets: the last layer may get fewer than the others.
        """
        before = self.mode, self._by_count
        self.mode, self._by_count = mode, rows
        try:
            yield
        finally:
            self.mode, self._by_count = before

    def rows(self, count: int) -> LoraRows:
        """The step's, for a layer that gets so many."""
        found = self._by_count.get(count)
        if found is None:
            raise AssertionError(
                f"a layer got {count} rows in a step of {sorted(self._by_count)}: its first "
                "dimension must be the step's tokens"
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraPart:
    """What an adapter has for one named weight, in the pool's type and on any device.

    Attributes:
        a: ``[rank, in]``; None: no low-rank product.
        b: ``[out, rank]``, the scale in it.
        gain: ``[out]`` on the output, low-rank product included (DoRA).
        bias: ``[out]``, added last.
        own: ``[out, in]``: a weight in the place of the model's; it may have rows beyond those.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    gain: Tensor | None = None
    bias: Tensor | None = None
    own: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All there are."""
        found = (self.a, self.b, self.gain, self.bias, self.own)
        return [tensor for tensor in found if tensor is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSizes:
    """How much room each layer has.

    Attributes:
        num_slots: Adapters at a time.
        rank: Most of an adapter.
        dtype: Of the activations, and so of the pools.
        device: Of the model.
    """

    num_slots: int
    rank: int
    dtype: torch.dtype
    device: torch.device


Copy = tuple[Tensor, Tensor]
"""A tensor and what is to be copied into it."""


class LoraSite(Protocol):
    """Where one named weight's part of an adapter is put."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the model's weight."""
        ...

    @property
    def gathers(self) -> bool:
        """Whether rows of the weight are looked up; else it is multiplied."""
        ...

    def base(self) -> tuple[Tensor, Tensor | None]:
        """The model's own weight ``[out, in]``, dequantised, and its bias ``[out]``."""
        ...

    def allocate(self, part: LoraPart) -> int:
        """Makes room for what such a part needs; gives the bytes that it took."""
        ...

    def touch(self, part: LoraPart) -> bool:
        """Has the layer do what such a part needs; says whether it did less until now."""
        ...

    def place(self, slot: int, part: LoraPart | None) -> list[Copy]:
        """Takes a part, or that a slot's adapter has none here; returns copies still to be made.

        No row of a step may want the slot until they are made.
        """
        ...


@runtime_checkable
class TakesLora(Protocol):
    """A module that adds what adapters have for its weights."""

    def enable_lora(self, path: str, state: LoraState, sizes: PoolSizes) -> dict[str, LoraSite]:
        """Called once after loading; gives the places for parts by canonical name of the weight."""
        ...
