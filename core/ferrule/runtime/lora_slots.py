"""The device's room for adapters, and which rows of a step want which of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ferrule.layers.lora import (
    HEAD,
    Copy,
    LoraMode,
    LoraPart,
    LoraRows,
    LoraSite,
    LoraState,
    PoolSizes,
    TakesLora,
)
from ferrule.plan import Admission
from ferrule.runtime.lora_adapter import PreparedLora

_FEW_ROWS = 256


class LoraSlots:
    """The layers' pools seen as slots, each for one adapter.

    Args:
        model: Loaded.
        sizes: Of the pools.
        max_batch_size: Slots of sequences.

    Attributes:
        sites: Where the parts of an adapter are put, by canonical name of the weight.
        sizes: Of the pools.
        state: That the layers look at.
        version: Grows when layers get something to do that they did not have: what was captured
            for rows with adapters is then of no use any more.
        num_bytes: Of the pools.
    """

    def __init__(self, model: nn.Module, sizes: PoolSizes, max_batch_size: int) -> None:
        self.state = LoraState()
        self.sizes = sizes
        self.version = 0
        self.num_bytes = 0
        self.sites: dict[str, LoraSite] = {}
        for path, module in model.named_modules():
            if isinstance(module, TakesLora):
                self.sites |= module.enable_lora(path, self.state, sizes)
        self._modes = [LoraMode.OFF] * sizes.num_slots
        self._known = [0] * sizes.num_slots
        self._of_slot: NDArray[np.int64] = np.full(max_batch_size, -1, dtype=np.int64)

    def admit(self, admission: Admission) -> None:
        """Takes over which adapter a sequence wants."""
        self._of_slot[admission.slot] = admission.lora

    def of(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The adapter slots that these sequences' slots want; -1: none."""
        return self._of_slot[np.asarray(slots, dtype=np.int64)]

    def mode(self, wanted: NDArray[np.int64]) -> LoraMode:
        """What rows that want these adapters need."""
        return max((self._modes[slot] for slot in _present(wanted)), default=LoraMode.OFF)

    def num_known_tokens(self, wanted: NDArray[np.int64], default: int) -> list[int] | None:
        """Below which id each row's token must be; None: no adapter adds tokens.

        Args:
            wanted: Adapter slots.
            default: The model's.
        """
        if self.mode(wanted) is not LoraMode.OWN:
            return None
        return [(self._known[slot] if slot >= 0 else 0) or default for slot in wanted.tolist()]

    def using(self, *wanted: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Plain torch for layers that get rows which want these adapters.

        Args:
            wanted: ``[rows]`` adapter slots, for each number of rows that occurs.
        """
        mode = max(map(self.mode, wanted))
        rows = {len(each): grouped(each, self.sizes.device) for each in wanted if mode}
        return self.state.using(mode, rows)

    def allocate(self, parts: Iterable[tuple[str, LoraPart]]) -> None:
        """Makes room in the layers that parts are for, and has them do what parts need."""
        has_more_to_do = False
        for name, part in parts:
            self.num_bytes += self.sites[name].allocate(part)
            has_more_to_do |= self.sites[name].touch(part)
        self.version += has_more_to_do

    def allocate_linears(self) -> None:
        """Makes room for low-rank products in all layers, whatever adapters will touch."""
        for name, part in self._linears():
            self.num_bytes += self.sites[name].allocate(part)

    def touch_linears(self) -> None:
        """Has all layers do what an adapter of all of them would need."""
        self.allocate(self._linears())

    def _linears(self) -> list[tuple[str, LoraPart]]:
        """A low-rank part for each weight of the layers that is multiplied."""
        low_rank = LoraPart(a=torch.empty(0), b=torch.empty(0))
        return [
            (name, low_rank)
            for name, site in self.sites.items()
            if not site.gathers and name != HEAD
        ]

    def place(self, slot: int, lora: PreparedLora) -> list[Copy]:
        """Takes an adapter into a slot; returns the copies that are still to be made."""
        copies: list[Copy] = []
        for name, site in self.sites.items():
            part = lora.parts.get(name)
            if part is not None and (part.own is not None or site.gathers):
                part = self._on_device(part)
            copies += site.place(slot, part)
        self._modes[slot], self._known[slot] = lora.mode, lora.num_known_tokens
        return copies

    def _on_device(self, part: LoraPart) -> LoraPart:
        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(self.sizes.device, non_blocking=True)

        return replace(part, a=moved(part.a), b=moved(part.b), own=moved(part.own))


def num_chunks(num_rows: int, num_slots: int) -> int:
    """The most chunks that so many rows come in, with adapters of so many slots or without one."""
    return num_rows // chunk_size(num_rows) + min(num_slots + 1, num_rows)


def chunk_size(num_rows: int) -> int:
    """Rows of a chunk: as few as tensor cores multiply, and more where there are many rows."""
    return 16 if num_rows <= _FEW_ROWS else 64


def fill_chunks(
    wanted: NDArray[np.int64], slots: NDArray[np.int64], rows: NDArray[np.int64]
) -> None:
    """Cuts rows into chunks of one adapter each, or of none.

    Args:
        wanted: ``[rows]`` adapter slots; -1: none.
        slots: ``[chunks]``, -1 everywhere; takes each chunk's adapter slot.
        rows: ``[chunks, size]``, -1 everywhere; takes each chunk's rows.
    """
    chunk, size = 0, rows.shape[1]
    for slot in np.unique(wanted).tolist():
        (of_slot,) = np.nonzero(wanted == slot)
        for first in range(0, len(of_slot), size):
            part = of_slot[first : first + size]
            slots[chunk] = slot
            rows[chunk, : len(part)] = part
            chunk += 1


def padded(wanted: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Adapter slots of so many rows, of which those that pad want none."""
    return np.pad(wanted, (0, num_rows - len(wanted)), constant_values=-1)


def grouped(wanted: NDArray[np.int64], device: torch.device) -> LoraRows:
    """Rows by the adapter that they want: one run of rows as a slice, others by index."""
    groups: list[tuple[int, Tensor | slice]] = []
    for slot in _present(wanted):
        (rows,) = np.nonzero(wanted == slot)
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first == len(rows):
            groups.append((slot, slice(first, last)))
        else:
            groups.append((slot, torch.from_numpy(rows).to(device)))
    return LoraRows(groups=groups)


def _present(wanted: NDArray[np.int64]) -> list[int]:
    """The adapter slots that any row wants, in order."""
    return [slot for slot in np.unique(wanted).tolist() if slot >= 0]


def widened(logits: Tensor, num_columns: int) -> Tensor:
    """Logits with room for tokens that adapters add, where rows do not have them: -inf."""
    missing = num_columns - logits.shape[-1]
    return F.pad(logits, (0, missing), value=-torch.inf) if missing > 0 else logits
