"""Reads the adapters that are named at the start, and makes room for them beside a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ferrule.engine.loras import Loras
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.layers.lora import PoolSizes
from ferrule.lora import Adapter, Base, open_adapter
from ferrule.plan import LoraInfo
from ferrule.runtime.lora_slots import LoraSlots
from ferrule.runtime.lora_store import LoraStore

_DEFAULT_RANK = 64
_DEFAULT_SLOTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class EnabledLora:
    """What serving adapters takes; all of it is nothing without.

    Attributes:
        slots: The device's room.
        store: Reads adapters and fills the room.
        infos: Those read at the start, by name.
        rank: The most of an adapter.
        num_added_rows: Rows that the logits have beyond the model's vocabulary.
    """

    slots: LoraSlots | None = None
    store: LoraStore | None = None
    infos: Mapping[str, LoraInfo] = field(default_factory=dict[str, LoraInfo])
    rank: int = 0
    num_added_rows: int = 0

    @property
    def num_bytes(self) -> int:
        """That the device keeps for adapters."""
        return 0 if self.slots is None else self.slots.num_bytes

    def known(self) -> Loras:
        """The engine's side of it."""
        loras = Loras(self.store)
        for info in self.infos.values():
            loras.add(info.content)
        return loras


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedAdapters:
    """The adapters that options name, read and held against the model, which may lack weights yet.

    Attributes:
        base: The model's headers.
        by_name: The adapters.
        rank: Room for the low-rank products of each.
    """

    base: Base
    by_name: Mapping[str, Adapter]
    rank: int


def read_adapters(
    options: EngineOptions, base: Base, report: Callable[[Progress], None] = lambda _: None
) -> NamedAdapters:
    """Reads them; before the model's weights are loaded, which takes longer.

    Args:
        options: What was asked for.
        base: The model, for adapters to be held against.
        report: Told of each adapter.

    Raises:
        FerruleError: An adapter cannot be served.
    """
    adapters: dict[str, Adapter] = {}
    for name, location in options.lora_paths if options.enable_lora else ():
        report(Progress(stage="reading adapters", detail=f"{name} from {location}"))
        adapters[name] = open_adapter(location, base=base)
    return NamedAdapters(base=base, by_name=adapters, rank=_rank(options, adapters))


def num_lora_slots(options: EngineOptions) -> int:
    """Adapters that the device has room for; 0: none are served."""
    if not options.enable_lora:
        return 0
    if options.max_loras is not None:
        return options.max_loras
    if options.enable_lora_updates:
        return _DEFAULT_SLOTS
    return min(max(len(dict(options.lora_paths)), 1), _DEFAULT_SLOTS)


def touched_everywhere(
    options: EngineOptions,
    model: nn.Module,
    *,
    max_batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> LoraSlots | None:
    """Room that an adapter of all layers' products would have, to compile kernels with.

    Kernels do not depend on the rank, so it has the least.

    Args:
        options: What was asked for.
        model: Its layers and sizes count, not its weights.
        max_batch_size: Sequences that run together.
        dtype: Of activations.
        device: Where the model is.

    Returns:
        The room; None: no adapters are served.
    """
    num_slots = num_lora_slots(options)
    if not num_slots:
        return None
    sizes = PoolSizes(num_slots=num_slots, rank=1, dtype=dtype, device=device)
    slots = LoraSlots(model, sizes, max_batch_size)
    slots.touch_linears()
    return slots


def enable_lora(
    options: EngineOptions,
    named: NamedAdapters,
    model: nn.Module,
    *,
    max_batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> EnabledLora:
    """Makes room for adapters beside a loaded model, and puts those that are named into it.

    Args:
        options: What was asked for.
        named: Those that options name.
        model: Loaded.
        max_batch_size: Sequences that run together.
        dtype: Of activations.
        device: Where the model is.

    Raises:
        FerruleError: The room is not there, or the layers cannot do what an adapter wants.
    """
    if not options.enable_lora:
        return EnabledLora()
    base, adapters = named.base, named.by_name

    def read(location: str) -> Adapter:
        return open_adapter(location, base=base)

    sizes = PoolSizes(
        num_slots=num_lora_slots(options),
        rank=named.rank,
        dtype=dtype,
        device=device,
    )
    slots = LoraSlots(model, sizes, max_batch_size)
    vocab_size = base.match.config.vocab_size
    num_rows = max((adapter.vocab_size for adapter in adapters.values()), default=0)
    num_added_rows = max(num_rows - vocab_size, 0)
    store = LoraStore(
        slots,
        read,
        num_on_host=options.max_cpu_loras,
        vocab_size=vocab_size,
        num_added_rows=num_added_rows,
    )
    try:
        if options.enable_lora_updates:
            slots.allocate_linears()
        infos = {name: store.load_now(adapter) for name, adapter in adapters.items()}
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"The memory of {device} has no room for {sizes.num_slots} adapters of rank "
            f"{sizes.rank}.",
            hint="Lower --max-loras or --max-lora-rank.",
        ) from error
    return EnabledLora(
        slots=slots, store=store, infos=infos, rank=sizes.rank, num_added_rows=num_added_rows
    )


def _rank(options: EngineOptions, adapters: Mapping[str, Adapter]) -> int:
    """What was asked for, or the most of the adapters given."""
    largest = max((adapter.rank for adapter in adapters.values()), default=_DEFAULT_RANK)
    if options.max_lora_rank is None:
        return max(largest, 1)
    if adapters and largest > options.max_lora_rank:
        name = next(name for name, adapter in adapters.items() if adapter.rank == largest)
        raise OptionError(
            f"--max-lora-rank is {options.max_lora_rank}, and {name} has rank {largest}.",
            hint=f"Take --max-lora-rank {largest}, or leave the flag out.",
        )
    return options.max_lora_rank
