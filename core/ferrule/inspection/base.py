"""A model, opened and matched; also as the base of an adapter."""

from __future__ import annotations

from pathlib import Path

from ferrule.checkpoint.open import Progress, open_checkpoint
from ferrule.engine.options import EngineOptions
from ferrule.lora import Base
from ferrule.matching import match
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
    checkpoint = open_checkpoint(
        options.model,
        weight_path=options.weight_path,
        quantization_encoding=options.quantization_encoding,
        progress=progress,
    )
    chosen = match(
        checkpoint,
        plugins,
        architecture=options.architecture,
        weight_adapter=options.weight_adapter,
    )
    return Base(match=chosen, plugins=plugins)
