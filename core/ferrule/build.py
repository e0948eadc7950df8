"""Puts an engine together: opens, matches, loads, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch import nn

from ferrule.batch_limits import BatchLimits, batch_limits
from ferrule.checkpoint.open import open_checkpoint
from ferrule.compile_ahead import start_compiling
from ferrule.enable_lora import NamedAdapters, enable_lora, read_adapters
from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.engine.scheduler import Scheduler
from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.kernels.available import has_triton
from ferrule.layers.attention import AttentionSpec
from ferrule.loading import build, load
from ferrule.lora import Base
from ferrule.matching import Match, match
from ferrule.model_config import ModelConfig
from ferrule.plugins import Plugins
from ferrule.runtime.compiled_layers import compile_layers
from ferrule.runtime.device import resolve_device, resolve_dtype
from ferrule.runtime.kernel_attention import fits_kernels
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import NUM_EXTRA_BLOCKS, KVCache, block_bytes
from ferrule.runtime.memory import activation_bytes, gib, kv_budget, longest_context, num_kv_blocks
from ferrule.runtime.model import Model
from ferrule.runtime.runner import ModelRunner
from ferrule.weight_memory import (
    check_weights_fit,
    copy_note,
    keep_copies,
    keeps_copies,
    scratch_bytes,
    weight_bytes,
)

Report = Callable[[Progress], None]


def build_engine(
    options: EngineOptions, report: Report = lambda _: None
) -> tuple[Engine, EngineInfo]:
    """Makes an engine that takes requests.

    Args:
        options: What to run and within which limits.
        report: Told of each stage.

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
    made_of = (dtype, batch_limits(options, device), has_copies)
    num_bytes = weight_bytes(tensors, dtype, device, has_copies=has_copies)
    with start_compiling(options, chosen, made_of, device, num_bytes) as ahead:
        with plugins.calling(chosen.architecture, "build"):
            module = build(chosen)
        _load(module, chosen, dtype, device, report)
        if has_copies:
            report(Progress(stage="dequantising a copy for prompts"))
            keep_copies(module)
        # What it takes of the device's memory must be free before the cache takes the rest.
        ahead.wait(lambda: report(Progress(stage="compiling kernels")))
    # That a plugin's module is a Model shows at its first call.
    built = _assemble(options, chosen, adapters, cast("Model", module), dtype, device, report)
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


def step_bytes(
    options: EngineOptions,
    config: ModelConfig,
    limits: BatchLimits,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """Memory that a step needs beside weights and cache."""
    return activation_bytes(
        config,
        max_batch_tokens=limits.num_tokens,
        max_batch_size=limits.num_sequences,
        context=options.max_length or config.context_length,
        dtype=dtype,
        has_kernels=device.type == "cuda" and has_triton(),
        has_loras=options.enable_lora,
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


def _assemble(
    options: EngineOptions,
    chosen: Match,
    adapters: NamedAdapters,
    model: Model,
    dtype: torch.dtype,
    device: torch.device,
    report: Report,
) -> tuple[Engine, EngineInfo]:
    config, specs = chosen.config, model.attention_specs()
    limits = batch_limits(options, device)
    loras = enable_lora(
        options,
        adapters,
        cast("nn.Module", model),
        max_batch_size=limits.num_sequences,
        dtype=dtype,
        device=device,
    )
    tensors, has_copies = chosen.checkpoint.tensors, options.gguf_resident_copy == "on"
    reserve = step_bytes(options, config, limits, dtype, device)
    reserve += 0 if has_copies else scratch_bytes(tensors, dtype, device)
    budget = kv_budget(options.device_memory_utilization, device, reserve=reserve)
    max_length, num_blocks = _size_cache(
        options, config, specs, dtype, limits.num_sequences, budget
    )
    block_size = options.kv_cache_page_size
    per_block = block_bytes(specs, block_size=block_size, dtype=dtype)
    kv_bytes = (num_blocks + NUM_EXTRA_BLOCKS) * per_block
    report(Progress(stage="allocating KV cache", detail=gib(kv_bytes)))
    cache = KVCache(specs, num_blocks=num_blocks, block_size=block_size, dtype=dtype, device=device)
    vocab_size = config.vocab_size + loras.num_added_rows
    runner_type = KernelRunner if fits_kernels(specs, device) else ModelRunner
    if runner_type is KernelRunner and isinstance(model, nn.Module):
        compile_layers(model, lora=loras.slots and loras.slots.state)
    runner = runner_type(
        model,
        cache,
        max_batch_size=limits.num_sequences,
        max_tokens=limits.num_tokens,
        max_length=max_length,
        vocab_size=vocab_size,
        num_known_tokens=options.num_known_tokens or config.vocab_size,
        device=device,
        loras=loras.slots,
    )
    runner.warm_up(
        lambda done, total: report(
            Progress(stage="capturing graphs", fraction=done / total, detail=f"{done} of {total}")
        )
    )
    scheduler = Scheduler(
        BlockPool(num_blocks),
        max_batch_size=limits.num_sequences,
        max_batch_tokens=limits.num_tokens,
        max_length=max_length,
        block_size=block_size,
        enable_prefix_caching=options.enable_prefix_caching,
        vocab_size=vocab_size,
        loras=loras.known(),
    )
    info = EngineInfo(
        architecture=chosen.architecture.name,
        weight_adapter=" + ".join(adapter.name for adapter in chosen.adapters),
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_length=max_length,
        vocab_size=config.vocab_size,
        num_blocks=num_blocks,
        block_size=block_size,
        max_batch_size=limits.num_sequences,
        weight_bytes=weight_bytes(tensors, dtype, device, has_copies=has_copies),
        kv_bytes=kv_bytes,
        notes=[
            *chosen.notes,
            *_length_note(options, config, max_length),
            *copy_note(tensors, dtype, device, has_copies=has_copies),
        ],
        loras=dict(loras.infos),
        max_lora_rank=loras.rank,
        lora_bytes=loras.num_bytes,
    )
    return Engine(scheduler, runner), info


def _size_cache(
    options: EngineOptions,
    config: ModelConfig,
    specs: Sequence[AttentionSpec],
    dtype: torch.dtype,
    max_batch_size: int,
    budget: int,
) -> tuple[int, int]:
    """The context that is served and the blocks that are allocated.

    A context that nobody asked for shrinks to what fits.
    """
    block_size = options.kv_cache_page_size
    if options.num_kv_blocks is not None:
        budget = options.num_kv_blocks * block_bytes(specs, block_size=block_size, dtype=dtype)
    max_length = options.max_length or longest_context(
        specs,
        block_size=block_size,
        dtype=dtype,
        context_length=config.context_length,
        budget=budget,
    )
    blocks = num_kv_blocks(
        specs,
        block_size=block_size,
        dtype=dtype,
        max_length=max_length,
        max_batch_size=max_batch_size,
        budget=budget,
    )
    return max_length, options.num_kv_blocks or blocks


def _length_note(options: EngineOptions, config: ModelConfig, max_length: int) -> list[str]:
    if options.max_length is None and max_length < config.context_length:
        return [
            f"the model's context of {config.context_length} tokens does not fit into the memory "
            f"that is free: {max_length} are served"
        ]
    return []
