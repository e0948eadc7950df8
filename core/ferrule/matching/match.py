"""The decision which weight adapters and which architecture read a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.matching import refusals
from ferrule.matching.pairing import fitting_dialects, of_kind, only_pair, peel
from ferrule.matching.renamed_checkpoint import RenamedCheckpoint, Source, renamed
from ferrule.model_config import ModelConfig
from ferrule.name_pattern import NamePattern
from ferrule.plugins import Plugins


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Match:
    """The decision, and the checkpoint as it sees it.

    Attributes:
        adapters: Weight adapters in the order in which they were applied: wrappers, then a dialect.
        architecture: Builds the model.
        checkpoint: Canonical: Hugging Face's names and config keys.
        config: The model's numbers.
        notes: What people should know of the decision.
    """

    adapters: tuple[WeightAdapter, ...]
    architecture: Architecture
    checkpoint: RenamedCheckpoint
    config: ModelConfig
    notes: tuple[str, ...]

    @property
    def sources(self) -> Mapping[str, Source]:
        """For each canonical name, where it is stored."""
        return self.checkpoint.sources

    @property
    def ignored(self) -> Mapping[str, str]:
        """Stored names that were left out, to the ``adapter: pattern`` that did it."""
        return self.checkpoint.ignored

    def read(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a canonical tensor, its rows in canonical order.

        Returns:
            ``[rows, row_bytes]`` uint8: a view of the file, or a copy if rows are reordered. Each
            element of a one-dimensional tensor is a row.
        """
        return self.checkpoint.read_rows(name)


def match(
    checkpoint: Checkpoint,
    plugins: Plugins,
    *,
    architecture: str | None = None,
    weight_adapter: str | None = None,
) -> Match:
    """Finds the one way to read a checkpoint; looks at headers only.

    Args:
        checkpoint: As stored.
        plugins: All that may be chosen.
        architecture: Name of the architecture to take whatever the config says.
        weight_adapter: Name of the dialect to take whatever the tensors are called.

    Raises:
        MatchError: No pair of dialect and architecture fits, or several do, or a name that was
            asked for is not installed.
        ConfigError: The config is contradictory or not understood.
        LoadError: Two tensors get one name, or rows do not divide as they must.
        PluginError: A plugin's function fails.
    """
    asked_architecture = _asked_architecture(plugins, architecture)
    asked_dialect = _asked_dialect(plugins, weight_adapter)
    peeled, wrappers = peel(RenamedCheckpoint.unchanged(checkpoint), plugins)
    dialects = [asked_dialect] if asked_dialect else fitting_dialects(peeled, plugins)
    if not dialects:
        raise refusals.no_dialect(peeled, plugins)
    pair = only_pair(peeled, dialects, asked_architecture, plugins)
    with plugins.calling(pair.dialect, "names and rows"):
        canonical = renamed(peeled, pair.dialect, pair.config)
    _refuse_two_spellings(canonical, pair.dialect)
    with plugins.calling(pair.architecture, "configure"):
        config = pair.architecture.configure(canonical)
    adapters = (*wrappers, pair.dialect)
    return Match(
        adapters=adapters,
        architecture=pair.architecture,
        checkpoint=canonical,
        config=config,
        notes=(*_notes(canonical, wrappers, plugins), *config.notes),
    )


def _asked_architecture(plugins: Plugins, name: str | None) -> Architecture | None:
    if name is None:
        return None
    if name in plugins.architectures:
        return plugins.architectures[name]
    raise refusals.not_installed("--architecture", name, plugins.architectures, plugins)


def _asked_dialect(plugins: Plugins, name: str | None) -> WeightAdapter | None:
    if name is None:
        return None
    dialects = of_kind(plugins, "dialect")
    if name in dialects:
        return dialects[name]
    if name in plugins.weight_adapters:
        raise refusals.is_wrapper(name, dialects, plugins)
    raise refusals.not_installed("--weight-adapter", name, dialects, plugins)


def _refuse_two_spellings(checkpoint: RenamedCheckpoint, dialect: WeightAdapter) -> None:
    """A name that the dialect spells otherwise must not pass as canonical without its row order."""
    canonical = [NamePattern(text) for text in dialect.names.values() if text is not None]
    twice = [
        name
        for name in checkpoint.unknown
        if any(pattern.fit(name) is not None for pattern in canonical)
    ]
    if twice:
        raise refusals.two_spellings(twice, dialect)


def _notes(
    checkpoint: RenamedCheckpoint, wrappers: tuple[WeightAdapter, ...], plugins: Plugins
) -> Iterator[str]:
    for wrapper in wrappers:
        yield f"peeled off: {wrapper.name} ({plugins.origin(wrapper)})"
    for reason, count in Counter(checkpoint.ignored.values()).items():
        yield f"{count} tensor{'s' * (count > 1)} left out by {reason}"
