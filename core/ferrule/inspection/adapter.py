"""What a LoRA adapter would change of its base, as data; reads all of the adapter."""

from __future__ import annotations

import msgspec

from ferrule.checkpoint.open import Progress
from ferrule.engine.options import EngineOptions
from ferrule.inspection.base import open_base
from ferrule.lora import AdapterReport, find_base, open_adapter


def inspect_adapter(
    options: EngineOptions, *, base: str | None = None, progress: Progress | None = None
) -> AdapterReport:
    """Reads an adapter and holds it against its base.

    Args:
        options: ``model`` is the adapter; the rest is as for the base.
        base: The base model; None: the one that the adapter names.
        progress: Told of downloads.

    Raises:
        FerruleError: One of them cannot be read, or they do not fit.
    """
    base = base or find_base(options.model, progress)
    opened = open_base(msgspec.structs.replace(options, model=base), progress=progress)
    return open_adapter(options.model, base=opened, progress=progress).report
