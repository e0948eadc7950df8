"""What an adapter touches, as data that can be shown, logged and sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from ferrule.lora.update import ModuleUpdate


class TouchedModules(msgspec.Struct, frozen=True, kw_only=True):
    """Modules of one kind that an adapter changes alike.

    Attributes:
        kind: The name without the layer's number: ``self_attn.q_proj``.
        count: How many modules.
        layers: Their layers' numbers; empty outside the layers.
        rank: Of the low-rank part; 0 without one.
        scale: Of the low-rank part.
        parts: What it consists of: ``lora``, ``dora``, ``bias``, ``full``.
        num_bytes: Of all of them together, as stored.
    """

    kind: str
    count: int
    layers: list[int]
    rank: int
    scale: float
    parts: list[str]
    num_bytes: int


class AdapterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The accounting of one adapter.

    Attributes:
        location: As the user gave it.
        container: How it is stored: ``peft``, ``mistral`` or ``gguf``.
        base: Location of the model that it was held against.
        trained_on: The model that the adapter says it was trained on; empty: it does not say.
        rank: The largest.
        num_modules: Modules changed.
        num_tensors: Tensors in the file.
        num_bytes: Of the tensors in use.
        touched: Modules by kind.
        added_tokens: New tokens, with their ids.
        vocab_size: Rows of the head with the adapter.
        unused: Tensors that change nothing, with the reason.
        notes: What else people should know.
    """

    location: str
    container: str
    base: str
    trained_on: str
    rank: int
    num_modules: int
    num_tensors: int
    num_bytes: int
    touched: list[TouchedModules]
    added_tokens: Mapping[str, int]
    vocab_size: int
    unused: Mapping[str, str]
    notes: list[str]

    @property
    def kinds(self) -> list[str]:
        """Of the modules, in the order of the alphabet: adapters of equal kinds are alike."""
        return sorted({each.kind for each in self.touched})

    def summary(self) -> str:
        """Part of a line: ``rank 8, scale 2, 60 modules, 1.8 MB``."""
        low_rank = [each for each in self.touched if each.rank]
        parts = ["no low-rank part"]
        if low_rank:
            ranks, scales = zip(*((each.rank, each.scale) for each in low_rank), strict=True)
            parts = [_spread("rank", ranks), _spread("scale", scales)]
        parts += [f"{self.num_modules} modules", f"{self.num_bytes / 1e6:.1f} MB"]
        if self.unused:
            parts.append(f"{len(self.unused)} tensors unused")
        return ", ".join(parts)


def touched_modules(modules: Mapping[str, ModuleUpdate]) -> list[TouchedModules]:
    """Groups modules by kind, rank, scale and parts, in the order in which they come."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, update in modules.items():
        key = (_kind(name), update.rank, update.scale, *_parts(update))
        groups.setdefault(key, []).append(name)
    return [_touched(names, modules) for names in groups.values()]


def _spread(name: str, values: Collection[float]) -> str:
    """``rank 8``, or ``ranks 8 to 16``."""
    least, most = min(values), max(values)
    return f"{name} {least:g}" if least == most else f"{name}s {least:g} to {most:g}"


def _touched(names: list[str], modules: Mapping[str, ModuleUpdate]) -> TouchedModules:
    first = modules[names[0]]
    return TouchedModules(
        kind=_kind(names[0]),
        count=len(names),
        layers=sorted(number for name in names if (number := layer_number(name)) is not None),
        rank=first.rank,
        scale=first.scale,
        parts=_parts(first),
        num_bytes=sum(modules[name].num_bytes for name in names),
    )


def layer_number(name: str) -> int | None:
    """Which layer a module is in; None outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _kind(name: str) -> str:
    """``model.layers.3.self_attn.q_proj`` is a ``self_attn.q_proj``."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


def _parts(update: ModuleUpdate) -> list[str]:
    has_dora = update.magnitude is not None
    low_rank = [] if update.a is None else ["dora" if has_dora else "lora"]
    others = [name for name in ("bias", "full") if getattr(update, name) is not None]
    return low_rank + others
