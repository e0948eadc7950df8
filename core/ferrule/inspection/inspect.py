"""Makes the report: matches, builds on the meta device, accounts, and reckons memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import nn

from ferrule.adapter import Rows
from ferrule.checkpoint.open import Progress
from ferrule.engine.options import EngineOptions
from ferrule.inspection.base import open_base
from ferrule.inspection.choices import choices, not_chosen
from ferrule.inspection.memory import needed_memory
from ferrule.inspection.report import AttentionLayer, Destination, Inspection
from ferrule.layers.rope import Rope
from ferrule.loading import Accounting, account, build
from ferrule.matching import Match
from ferrule.model_config import ModelConfig, RopeConfig
from ferrule.plugins import Plugins
from ferrule.runtime.device import resolve_device, resolve_dtype
from ferrule.runtime.model import Model


def inspect_checkpoint(
    options: EngineOptions, *, context: int | None = None, progress: Progress | None = None
) -> Inspection:
    """Decides everything that serving would decide.

    Args:
        options: The model, and what overrules the match, the dtype and the device.
        context: How many tokens to reckon the KV cache for; None: ``options.max_length``, or the
            model's own context.
        progress: Told of downloads.

    Raises:
        FerruleError: The checkpoint cannot be opened, or nothing matches it. Tensors that do not
            fit the model are part of the report.
    """
    base = open_base(options, progress=progress)
    return _report(base.match, base.plugins, options, context)


def _report(
    chosen: Match, plugins: Plugins, options: EngineOptions, context: int | None
) -> Inspection:
    with plugins.calling(chosen.architecture, "build"):
        module = build(chosen)
    model: Model = module  # pyright: ignore[reportAssignmentType] - as in build_engine
    specs = model.attention_specs()
    accounting = account(module, chosen.checkpoint.tensors)
    error = None if accounting.is_exact else accounting.error(chosen)
    device = resolve_device(options.devices)
    dtype = resolve_dtype(options.dtype, chosen.checkpoint, device)
    context = context or options.max_length or chosen.config.context_length
    return Inspection(
        location=chosen.checkpoint.location,
        kind=chosen.checkpoint.kind,
        choices=list(choices(chosen, plugins, options)),
        not_chosen=not_chosen(chosen, plugins),
        config=_numbers(chosen.config),
        context_length=chosen.config.context_length,
        ropes=[_settings(rope) for rope in _ropes(module)],
        layers=[AttentionLayer(**asdict(spec)) for spec in specs],
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        destinations=list(_destinations(chosen, accounting)),
        ignored=chosen.ignored,
        missing=accounting.missing,
        surplus=accounting.surplus,
        misshaped=accounting.misshaped,
        unknown_formats=accounting.unknown_formats,
        problems="" if error is None else error.message,
        hint="" if error is None else error.hint,
        notes=chosen.notes,
        memory=needed_memory(chosen, specs, options, dtype=dtype, device=device, context=context),
    )


def _numbers(config: ModelConfig) -> dict[str, Any]:
    """The config without what the report has in places of its own."""
    numbers = asdict(config)
    for name in ("rope", "windows", "notes"):
        del numbers[name]
    return numbers


def _ropes(module: nn.Module) -> list[RopeConfig]:
    """Of the rotations that were built, each different one once."""
    ropes = [part.config for part in module.modules() if isinstance(part, Rope)]
    return list(dict.fromkeys(ropes))


def _settings(rope: RopeConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(rope).items() if value is not None}


def _destinations(chosen: Match, accounting: Accounting) -> Iterator[Destination]:
    stored = chosen.checkpoint.stored.tensors
    for name, info in chosen.checkpoint.tensors.items():
        source = chosen.sources[name]
        home = accounting.homes.get(name)
        yield Destination(
            stored=source.stored,
            name=name,
            module=None if home is None else home.module,
            shape=info.shape,
            format=info.format,
            rows=_in_words(source.rows, stored[source.stored].shape),
            nbytes=info.nbytes,
            file=info.file.name,
        )


def _in_words(rows: Rows | None, stored: tuple[int, ...]) -> str:
    if rows is None:
        return ""
    if isinstance(rows, slice):
        return f"rows {rows.start} to {rows.stop - 1} of {stored[0]}"
    if len(rows) == stored[0]:
        return "reordered"
    return f"{len(rows)} of {stored[0]} rows, reordered"
