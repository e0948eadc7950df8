"""Holds adapter_config.json against the tensors: what it names must be there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ferrule.lora.accounting import Accounting
from ferrule.lora.base import HEAD, Base
from ferrule.lora.grouping import Group
from ferrule.lora.naming import Home
from ferrule.lora.peft_config import PeftConfig
from ferrule.lora.stored import PartKind, StoredAdapter

_LOW_RANK = frozenset((PartKind.a, PartKind.embedding_a))


def check_targets(
    adapter: StoredAdapter,
    placed: Mapping[str, tuple[Group, Home]],
    base: Base,
    accounting: Accounting,
) -> None:
    """Notes targets without tensors, tensors that are no targets, and ranks that differ.

    A list's entry that names no module of the base is passed over, as PEFT does.
    """
    config = adapter.config
    if config is None:
        return
    groups = {group.spelled: group for group, _ in placed.values()}
    low_rank = [name for name, group in groups.items() if not _LOW_RANK.isdisjoint(group.stored)]
    if config.target_modules is not None:
        # peft gives a tied head its part without naming it.
        tied = placed[HEAD][0].spelled if HEAD in placed and config.ties_weights else None
        for name in low_rank:
            names = (name, *(home.module for home in groups[name].homes))
            if not any(map(config.is_target, names)) and name != tied:
                accounting.untouched.append(f"{name} has tensors and is no target")
        accounting.untouched.extend(
            f"{name} is a target and has no tensors"
            for name in _without_tensors(config, low_rank, placed, base)
        )
    accounting.untouched.extend(
        f"{name} is in modules_to_save and has no tensor"
        for name in config.modules_to_save
        if not _is_in_full(name, groups.values())
    )
    _check_ranks(adapter, config, groups, accounting)
    _check_dora(config, groups, low_rank, accounting)


def _without_tensors(
    config: PeftConfig,
    low_rank: list[str],
    placed: Mapping[str, tuple[Group, Home]],
    base: Base,
) -> list[str]:
    """Targets among the base's modules, where the adapter's names show how it spells them."""
    spelled = {home.module: group.spelled for group, home in placed.values()}
    if all(name == module for module, name in spelled.items()):
        # The head is a module of its own in PEFT's eyes only if the config could reach it.
        return [name for name in base.shapes if config.is_target(name) and name not in low_rank]
    targets = config.target_modules
    if targets is None or isinstance(targets, str):
        return []
    return [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in low_rank)
        and any(module.endswith(f".{target}") for module in base.shapes)
    ]


def _is_in_full(name: str, groups: Iterable[Group]) -> bool:
    return any(
        (group.spelled == name or group.spelled.endswith(f".{name}"))
        and PartKind.weight in group.stored
        for group in groups
    )


def _check_ranks(
    adapter: StoredAdapter,
    config: PeftConfig,
    groups: Mapping[str, Group],
    accounting: Accounting,
) -> None:
    for name, group in groups.items():
        for kind in _LOW_RANK & group.stored.keys():
            shape = adapter.checkpoint.tensors[group.stored[kind]].shape
            expected = config.rank_of(name, *(home.module for home in group.homes))
            if len(shape) == 2 and shape[0] != expected:
                accounting.misshaped.append(
                    f"{group.stored[kind]}: rank {shape[0]}, {expected} in adapter_config.json"
                )


def _check_dora(
    config: PeftConfig,
    groups: Mapping[str, Group],
    low_rank: list[str],
    accounting: Accounting,
) -> None:
    for name in low_rank:
        has_magnitude = PartKind.magnitude in groups[name].stored
        if has_magnitude and not config.uses_dora:
            accounting.untouched.append(f"{name} has a magnitude, and use_dora is not set")
        if config.uses_dora and not has_magnitude:
            accounting.incomplete.append(f"{name} has no magnitude, and use_dora is set")
