"""An adapter's tensors by the canonical module that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ferrule.lora.accounting import Accounting
from ferrule.lora.base import Base
from ferrule.lora.naming import Home, Spelled, find_homes
from ferrule.lora.stored import PartKind, StoredAdapter


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """The tensors of one module as the adapter spells it.

    Attributes:
        spelled: Its name in the adapter, without ``base_model.model.``.
        stored: Names of tensors by what they are.
        homes: The canonical modules that it is or is split into.
    """

    spelled: str
    stored: Mapping[PartKind, str]
    homes: tuple[Home, ...] = field(default=())


def group_parts(
    adapter: StoredAdapter, base: Base, accounting: Accounting
) -> dict[str, tuple[Group, Home]]:
    """Groups tensors, and finds the base's module for each group.

    Returns:
        By canonical module, its group and which rows of it count; what the base lacks is noted.
    """
    known = base.shapes
    for stored in adapter.unknown:
        accounting.take_no(stored, known)
    by_module = _by_module(adapter, accounting)
    homes = find_homes(
        [_spelled(name, parts, adapter) for name, parts in by_module.items()],
        base,
        dialect=adapter.dialect,
        gguf_architecture=adapter.checkpoint.config.get("general.architecture"),
    )
    placed: dict[str, tuple[Group, Home]] = {}
    for name, parts in by_module.items():
        if name not in homes:
            for stored in parts.values():
                accounting.take_no(stored, known, name)
            continue
        group = Group(spelled=name, stored=parts, homes=homes[name])
        for home in group.homes:
            if home.module in placed:
                other = placed[home.module][0].spelled
                accounting.not_taken.append(f"{name}: {home.module} is changed by {other} already")
            placed[home.module] = (group, home)
    return placed


def _by_module(adapter: StoredAdapter, accounting: Accounting) -> dict[str, dict[PartKind, str]]:
    by_module: dict[str, dict[PartKind, str]] = {}
    for part in adapter.parts:
        parts = by_module.setdefault(part.module, {})
        first = parts.setdefault(part.kind, part.stored)
        if first == part.stored:
            continue
        # peft saves a resized embedding that was trained under two names.
        if torch.equal(adapter.read(first), adapter.read(part.stored)):
            accounting.unused[part.stored] = f"equal to {first}"
        else:
            accounting.not_taken.append(f"{part.stored}: {first} is the same of the same module")
    return by_module


def _spelled(name: str, parts: Mapping[PartKind, str], adapter: StoredAdapter) -> Spelled:
    shapes = {kind: adapter.checkpoint.tensors[stored].shape for kind, stored in parts.items()}
    return Spelled(name=name, num_rows=next(_rows(shapes), 1), num_cols=next(_columns(shapes), 1))


def _rows(shapes: Mapping[PartKind, tuple[int, ...]]) -> Iterator[int]:
    """The outputs of a module, from whichever of its tensors there are."""
    for kind, shape in shapes.items():
        if kind not in (PartKind.a, PartKind.embedding_a, PartKind.token_rows) and shape:
            yield shape[0]


def _columns(shapes: Mapping[PartKind, tuple[int, ...]]) -> Iterator[int]:
    for kind, shape in shapes.items():
        if kind in (PartKind.a, PartKind.weight, PartKind.base_weight) and len(shape) == 2:
            yield shape[1]
