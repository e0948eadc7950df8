"""Peels wrappers off a checkpoint, and pairs the dialects and architectures that fit the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.errors import PluginError
from ferrule.matching import refusals
from ferrule.matching.renamed_checkpoint import RenamedCheckpoint, renamed
from ferrule.plugins import Plugins

# Real nesting is two or three deep; more than this is a wrapper that undoes another one.
_MAX_WRAPPERS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A dialect and an architecture that fit each other.

    Attributes:
        dialect: Reads the names.
        architecture: Fits the config that the dialect makes.
        config: That config.
    """

    dialect: WeightAdapter
    architecture: Architecture
    config: Mapping[str, Any]


def of_kind(plugins: Plugins, kind: str) -> Mapping[str, WeightAdapter]:
    """The installed dialects or wrappers, by name."""
    return {name: each for name, each in plugins.weight_adapters.items() if each.kind == kind}


def peel(
    checkpoint: RenamedCheckpoint, plugins: Plugins
) -> tuple[RenamedCheckpoint, tuple[WeightAdapter, ...]]:
    """Applies wrappers, the first by name that matches, until none does.

    Returns:
        What is left, and the wrappers in the order in which they were applied.

    Raises:
        PluginError: A wrapper goes on matching without changing anything.
    """
    applied: list[WeightAdapter] = []
    while fitting := _fitting(of_kind(plugins, "wrapper"), checkpoint, plugins):
        wrapper = fitting[0]
        config = _config(checkpoint, wrapper, plugins)
        with plugins.calling(wrapper, "names and rows"):
            peeled = renamed(checkpoint, wrapper, config)
        same = peeled.tensors.keys() == checkpoint.tensors.keys() and config == checkpoint.config
        if same or len(applied) == _MAX_WRAPPERS:
            raise PluginError(
                f"The wrapper {wrapper.name!r} of {plugins.origin(wrapper)} goes on matching "
                "without peeling anything off.",
                hint="This is a mistake in the plugin: its matches() must become false.",
            )
        applied.append(wrapper)
        checkpoint = peeled
    return checkpoint, tuple(applied)


def fitting_dialects(checkpoint: RenamedCheckpoint, plugins: Plugins) -> list[WeightAdapter]:
    """The dialects that match, by name."""
    return _fitting(of_kind(plugins, "dialect"), checkpoint, plugins)


def only_pair(
    checkpoint: RenamedCheckpoint,
    dialects: list[WeightAdapter],
    architecture: Architecture | None,
    plugins: Plugins,
) -> Pair:
    """The one pair that fits.

    Args:
        checkpoint: Wrappers peeled off.
        dialects: That match; at least one.
        architecture: Taken whatever it matches; None lets each match.
        plugins: Where architectures come from.

    Raises:
        MatchError: There is none, or more than one.
    """
    configs = [(dialect, _config(checkpoint, dialect, plugins)) for dialect in dialects]
    pairs = [
        Pair(dialect=dialect, architecture=each, config=config)
        for dialect, config in configs
        for each in ([architecture] if architecture else _architectures(config, plugins))
    ]
    if not pairs:
        raise refusals.no_architecture(checkpoint, [config for _, config in configs], plugins)
    if len(pairs) > 1:
        named = [(pair.dialect, pair.architecture) for pair in pairs]
        raise refusals.several_pairs(checkpoint, named, plugins)
    return pairs[0]


def _fitting(
    adapters: Mapping[str, WeightAdapter], checkpoint: RenamedCheckpoint, plugins: Plugins
) -> list[WeightAdapter]:
    fitting: list[WeightAdapter] = []
    for each in adapters.values():
        with plugins.calling(each, "matches"):
            if each.matches(checkpoint):
                fitting.append(each)
    return fitting


def _architectures(config: Mapping[str, Any], plugins: Plugins) -> list[Architecture]:
    fitting: list[Architecture] = []
    for each in plugins.architectures.values():
        with plugins.calling(each, "matches"):
            if each.matches(config):
                fitting.append(each)
    return fitting


def _config(
    checkpoint: RenamedCheckpoint, adapter: WeightAdapter, plugins: Plugins
) -> Mapping[str, Any]:
    if adapter.config is None:
        return checkpoint.config
    with plugins.calling(adapter, "config"):
        return adapter.config(checkpoint)
