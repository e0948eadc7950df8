"""Makes an engine: opens, matches, loads, and has it assembled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch import nn

from ferrule.assembly import Loaded, Report, assemble, step_bytes
from ferrule.batch_limits import batch_limits
from ferrule.checkpoint.open import open_checkpoint
from ferrule.compile_ahead import start_compiling
from ferrule.compile_helper import CompileHelper
from ferrule.enable_lora import num_lora_slots, read_adapters
from ferrule.engine.engine import Engine
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.kernels.prepare import preparing
from ferrule.loading import build, load
from ferrule.lora import Base
from ferrule.matching import Match, match
from ferrule.model_config import ModelConfig
from ferrule.plugins import Plugins
from ferrule.runtime.device import resolve_device, resolve_dtype
from ferrule.runtime.memory import gib
from ferrule.runtime.model import Model
from ferrule.weight_memory import check_weights_fit, keep_copies, keeps_copies, weight_bytes


def build_engine(
    options: EngineOptions,
    report: Report = lambda _: None,
    helpers: Sequence[CompileHelper] = (),
) -> tuple[Engine, EngineInfo]:
    """Makes an engine that takes requests.

    Args:
        options: What to run and within which limits.
        report: Told of each stage.
        helpers: Wait to compile kernels; they are the caller's to end if this fails.

    Raises:
        FerruleError: The checkpoint, the plugins, the options or the memory do not allow it.
    """
    device = resolve_device(options.devices)
    report(Progress(stage="finding plugins"))
    plugins = Plugins.installed([Path(file) for file in options.plugins])
    report(Progress(stage="reading headers", detail=options.model))
    chosen = find_match(options, plugins, report)
    dtype = resolve_dtype(options.dtype, chosen.checkpoint, device)
    _check_max_length(options.max_length, chosen.config)
    options = settle_copies(options, chosen, dtype, device)
    has_copies, tensors = options.gguf_resident_copy == "on", chosen.checkpoint.tensors
    check_weights_fit(tensors, dtype, device, has_copies=has_copies)
    adapters = read_adapters(options, Base(match=chosen, plugins=plugins), report)
    made_of = (dtype, batch_limits(options, device), has_copies, num_lora_slots(options))
    num_bytes = weight_bytes(tensors, dtype, device, has_copies=has_copies)
    with start_compiling(options, chosen, made_of, device, num_bytes, started=helpers) as ahead:
        with plugins.calling(chosen.architecture, "build"):
            module = build(chosen)
        with preparing(device):
            _load(module, chosen, dtype, device, report)
        if has_copies:
            report(Progress(stage="dequantising a copy for prompts"))
            keep_copies(module)
        # What it takes of the device's memory must be free before the cache takes the rest.
        ahead.wait(lambda: report(Progress(stage="compiling kernels")))
    # That a plugin's module is a Model shows at its first call.
    model = cast("Model", module)
    loaded = Loaded(options=options, chosen=chosen, model=model, dtype=dtype, device=device)
    built = assemble(loaded, adapters, report)
    ahead.remember()
    return built


def find_match(options: EngineOptions, plugins: Plugins, report: Report = lambda _: None) -> Match:
    """Opens the checkpoint and decides how to read it; headers only.

    Args:
        options: The model, and what overrules the match.
        plugins: All that may be chosen.
        report: Told of downloads.
    """
    checkpoint = open_checkpoint(
        options.model,
        weight_path=options.weight_path,
        quantization_encoding=options.quantization_encoding,
        progress=lambda stage, fraction, detail: report(Progress(stage, fraction, detail)),
    )
    return match(
        checkpoint,
        plugins,
        architecture=options.architecture,
        weight_adapter=options.weight_adapter,
    )


def settle_copies(
    options: EngineOptions, chosen: Match, dtype: torch.dtype, device: torch.device
) -> EngineOptions:
    """The options with ``gguf_resident_copy`` on or off."""
    limits = batch_limits(options, device)
    reserve = step_bytes(options, chosen.config, limits, dtype, device)
    keeps = keeps_copies(options, chosen.checkpoint.tensors, dtype, device, reserve)
    return msgspec.structs.replace(options, gguf_resident_copy="on" if keeps else "off")


def _check_max_length(max_length: int | None, config: ModelConfig) -> None:
    if max_length is not None and max_length > config.context_length:
        raise OptionError(
            f"--max-length is {max_length}, and the model's positions reach "
            f"{config.context_length} tokens.",
            hint=f"Take --max-length {config.context_length} or less.",
        )
    if max_length is not None and max_length < 2:
        raise OptionError(f"--max-length is {max_length}; expected at least 2 tokens.")


def _load(
    module: nn.Module, chosen: Match, dtype: torch.dtype, device: torch.device, report: Report
) -> None:
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > 0.1:
            last = now
            detail = f"{gib(done)} of {gib(total)}"
            report(Progress(stage="loading weights", fraction=done / max(total, 1), detail=detail))

    try:
        load(module, chosen, dtype=dtype, device=device, progress=progress)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"The memory of {device} ran out while weights were loaded.",
            hint="Other programs may use it too: see nvidia-smi.",
        ) from error
