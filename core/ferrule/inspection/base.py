"""A model, opened and matched; also as the base of an adapter."""

from __future__ import annotations

from pathlib import Path

from ferrule.build import find_match
from ferrule.checkpoint.open import Progress
from ferrule.engine.messages import Progress as Said
from ferrule.engine.options import EngineOptions
from ferrule.lora import Base
from ferrule.plugins import Plugins


def open_base(options: EngineOptions, *, progress: Progress | None = None) -> Base:
    """Opens and matches a model, headers only.

    Args:
        options: The model, and what overrules the match.
        progress: Told of downloads.

    Raises:
        FerruleError: The checkpoint cannot be opened, or nothing matches it.
    """
    plugins = Plugins.installed([Path(file) for file in options.plugins])

    def report(said: Said) -> None:
        if progress is not None:
            progress(said.stage, said.fraction, said.detail)

    return Base(match=find_match(options, plugins, report), plugins=plugins)
