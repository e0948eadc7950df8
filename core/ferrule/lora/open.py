"""Opens an adapter for a base model: reads it, finds its modules, and accounts for every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferrule.checkpoint.open import Progress
from ferrule.lora.accounting import Accounting, refuse
from ferrule.lora.adapter import Adapter, content_hash
from ferrule.lora.added_tokens import added_tokens
from ferrule.lora.base import HEAD, Base
from ferrule.lora.containers import read_adapter
from ferrule.lora.fingerprint import base_notes
from ferrule.lora.grouping import group_parts
from ferrule.lora.report import AdapterReport, touched_modules
from ferrule.lora.stored import StoredAdapter
from ferrule.lora.targets import check_targets
from ferrule.lora.update import ModuleUpdate
from ferrule.lora.updates import make_updates


def open_adapter(
    location: str,
    *,
    base: Base,
    name: str | None = None,
    merging: bool = False,
    progress: Progress | None = None,
) -> Adapter:
    """Opens an adapter and holds it against its base; all of its tensors are read.

    Args:
        location: A directory, a ``.gguf`` file, ``org/name[@revision]`` or ``org/name/FILE.gguf``.
        base: The model that it will change.
        name: What requests call it; None: the last part of its location.
        merging: Whether it will be merged: then it may replace norms and linear weights too.
        progress: Told of downloads.

    Raises:
        CheckpointError: It is missing, corrupt, or no adapter.
        ConfigError: It asks for what can be neither applied nor merged.
        LoadError: It does not fit the base, touches nothing, or has tensors that nothing takes.
    """
    stored = read_adapter(location, progress)
    accounting = Accounting(adapter=stored.location, base=base.location, trained_on=stored.base)
    grouped = group_parts(stored, base, accounting)
    check_targets(stored, grouped, base, accounting)
    modules = make_updates(stored, grouped, base, accounting, merging=merging)
    refuse(accounting, len(modules))
    vocab_size = _vocab_size(modules, base)
    tokens = added_tokens(stored, base, vocab_size)
    return Adapter(
        name=name or Path(location).stem,
        location=location,
        content=content_hash(modules),
        modules=modules,
        vocab_size=vocab_size,
        added_tokens=tokens,
        files=stored.files,
        report=_report(stored, base, modules, accounting.unused, tokens, vocab_size),
    )


def _vocab_size(modules: Mapping[str, ModuleUpdate], base: Base) -> int:
    head = modules.get(HEAD)
    if head is None or head.full is None:
        return base.match.config.vocab_size
    return head.full.shape[0]


def _report(
    stored: StoredAdapter,
    base: Base,
    modules: Mapping[str, ModuleUpdate],
    unused: Mapping[str, str],
    tokens: Mapping[str, int],
    vocab_size: int,
) -> AdapterReport:
    return AdapterReport(
        location=stored.location,
        container=stored.container,
        base=base.location,
        trained_on=stored.base,
        rank=max(update.rank for update in modules.values()),
        num_modules=len(modules),
        num_tensors=len(stored.checkpoint.tensors),
        num_bytes=sum(update.num_bytes for update in modules.values()),
        touched=touched_modules(modules),
        added_tokens=tokens,
        vocab_size=vocab_size,
        unused=unused,
        notes=[*stored.notes, *base_notes(stored.base, base)],
    )
