"""Why a match took the plugins that it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ferrule.adapter import WeightAdapter
from ferrule.engine.options import EngineOptions
from ferrule.inspection.report import Choice
from ferrule.matching import Match
from ferrule.matching.renamed_checkpoint import RenamedCheckpoint, renamed
from ferrule.plugins import Plugins


def choices(match: Match, plugins: Plugins, options: EngineOptions) -> Iterator[Choice]:
    """What was taken: wrappers in order, the dialect, the architecture.

    Args:
        match: The decision.
        plugins: Those that it chose from.
        options: Whether a choice was asked for.
    """
    before = RenamedCheckpoint.unchanged(match.checkpoint.stored)
    for adapter in match.adapters:
        config = before.config if adapter.config is None else adapter.config(before)
        # Only this adapter's own names: what an earlier one left out is its own affair.
        after = renamed(replace(before, ignored={}), adapter, config)
        asked = " (--weight-adapter)" if options.weight_adapter == adapter.name else ""
        yield Choice(
            name=adapter.name,
            kind=adapter.kind,
            origin=plugins.origin(adapter),
            reason=_renaming(before, after) + asked,
        )
        before = after
    asked = " (--architecture)" if options.architecture else ""
    yield Choice(
        name=match.architecture.name,
        kind="architecture",
        origin=plugins.origin(match.architecture),
        reason=_family(match) + asked,
    )


def not_chosen(match: Match, plugins: Plugins) -> dict[str, list[str]]:
    """Names of the dialects and architectures that are installed and were not taken, by kind."""
    return {
        "dialect": [
            name
            for name, adapter in plugins.weight_adapters.items()
            if adapter.kind == "dialect" and not _is_taken(adapter, match)
        ],
        "architecture": [
            name
            for name, architecture in plugins.architectures.items()
            if architecture is not match.architecture
        ],
    }


def _is_taken(adapter: WeightAdapter, match: Match) -> bool:
    return any(adapter is taken for taken in match.adapters)


def _renaming(before: RenamedCheckpoint, after: RenamedCheckpoint) -> str:
    """How many names an adapter changes, and the first of them."""
    names = {source.stored: name for name, source in before.sources.items()}
    changes = [
        (names[source.stored], name)
        for name, source in after.sources.items()
        if names[source.stored] != name
    ]
    known = len(before.tensors) - len(after.unknown)
    text = f"reads {known} of {len(before.tensors)} names"
    if changes:
        text += f", changes {len(changes)}: {changes[0][0]} is {changes[0][1]}"
    if after.ignored:
        text += f", leaves {len(after.ignored)} out"
    return text


def _family(match: Match) -> str:
    """What the canonical config says of the model's family."""
    config = match.checkpoint.config
    words = [f"model_type is {config['model_type']!r}"] if config.get("model_type") else []
    if names := config.get("architectures"):
        words.append(f"architectures has {', '.join(map(str, names))}")
    return ", ".join(words) or "the config names no family"
