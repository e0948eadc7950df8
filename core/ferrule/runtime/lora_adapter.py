"""An adapter as the model's layers take it: in their number type, its formulas worked out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ferrule.errors import LoadError
from ferrule.layers.lora import LoraMode, LoraPart, LoraSite, PoolSizes
from ferrule.lora import Adapter, ModuleUpdate, dora_gain


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedLora:
    """What is kept in host memory.

    Attributes:
        content: Identity of all that it computes.
        parts: By canonical name of the weight.
        mode: What rows that want it need.
        num_known_tokens: Ids below this may be chosen with it; 0: the model's own.
    """

    content: str
    parts: Mapping[str, LoraPart]
    mode: LoraMode
    num_known_tokens: int

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for part in self.parts.values() for tensor in part.tensors)


def prepare(adapter: Adapter, sites: Mapping[str, LoraSite], sizes: PoolSizes) -> PreparedLora:
    """Works out what layers need of an adapter.

    Args:
        adapter: Fits the model.
        sites: Of the model.
        sizes: Of the pools.

    Raises:
        LoadError: Something of it cannot be applied while serving.
    """
    _check(adapter, sites, sizes)
    parts = {name: _part(update, sites[name], sizes) for name, update in adapter.modules.items()}
    known = max(adapter.added_tokens.values(), default=-1) + 1
    return PreparedLora(
        content=adapter.content,
        parts=parts,
        mode=LoraMode.OWN if known else _mode(parts, sites),
        num_known_tokens=known,
    )


def _check(adapter: Adapter, sites: Mapping[str, LoraSite], sizes: PoolSizes) -> None:
    if adapter.rank > sizes.rank:
        raise LoadError(
            f"{adapter.location} has rank {adapter.rank}, and there is room for rank {sizes.rank}.",
            hint=f"Start with --max-lora-rank {adapter.rank}.",
        )
    if lacking := [name for name in adapter.modules if name not in sites]:
        raise LoadError(
            f"{adapter.location} changes {', '.join(lacking[:4])}, which this model's architecture "
            "does not compute through layers.Linear or layers.Embedding, so it cannot be applied "
            "while serving.",
            hint="`ferrule merge` makes one model of both.",
        )
    for name, update in adapter.modules.items():
        if sites[name].gathers and (update.magnitude is not None or update.bias is not None):
            raise LoadError(
                f"{adapter.location} has DoRA's magnitudes or a bias for {name}, an embedding, "
                "which is not applied while serving.",
                hint="`ferrule merge` makes one model of both.",
            )


def _part(update: ModuleUpdate, site: LoraSite, sizes: PoolSizes) -> LoraPart:
    gain = None
    if update.magnitude is not None:
        weight = update.full if update.full is not None else site.base()[0]
        gain = dora_gain(update, weight).cpu()
    return LoraPart(
        a=_kept(update.a, sizes),
        b=None if update.b is None else _kept(update.b.float() * update.scale, sizes),
        gain=gain,
        bias=_bias(update, gain, site),
        own=_kept(update.full, sizes),
    )


def _bias(update: ModuleUpdate, gain: Tensor | None, site: LoraSite) -> Tensor | None:
    """What is added last, where the gain is on all that the layer gives: its own bias too.

    ``gain * (W x + B A x) + c + bias`` is ``gain * (W x + c + B A x) + (1 - gain) * c + bias``, and
    a weight of the adapter's own is multiplied without ``c``.
    """
    if gain is None and update.full is None:
        return update.bias
    own = None if site.gathers else site.base()[1]
    if own is None:
        return update.bias
    own = own.float().cpu()
    moved = own if update.full is not None else (1 - (1 if gain is None else gain)) * own
    return moved if update.bias is None else moved + update.bias


def _kept(tensor: Tensor | None, sizes: PoolSizes) -> Tensor | None:
    if tensor is None:
        return None
    kept = tensor.to(sizes.dtype).contiguous()
    # From memory that pages may leave, the device could not copy beside the steps.
    return kept.pin_memory() if sizes.device.type == "cuda" else kept


def _mode(parts: Mapping[str, LoraPart], sites: Mapping[str, LoraSite]) -> LoraMode:
    if any(part.own is not None or sites[name].gathers for name, part in parts.items()):
        return LoraMode.OWN
    if any(part.gain is not None or part.bias is not None for part in parts.values()):
        return LoraMode.SCALED
    return LoraMode.DELTAS
