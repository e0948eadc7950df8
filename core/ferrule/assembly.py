"""A loaded model becomes an engine: memory is sized, then cache, runner and scheduler are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import nn

from ferrule.batch_limits import BatchLimits, batch_limits
from ferrule.enable_lora import EnabledLora, NamedAdapters, enable_lora
from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.engine.scheduler import Scheduler
from ferrule.kernels.available import has_triton
from ferrule.layers.attention import AttentionSpec
from ferrule.matching import Match
from ferrule.model_config import ModelConfig
from ferrule.runtime.compiled_layers import compile_layers
from ferrule.runtime.kernel_attention import fits_kernels
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import NUM_EXTRA_BLOCKS, KVCache, block_bytes
from ferrule.runtime.memory import activation_bytes, gib, kv_budget, longest_context, num_kv_blocks
from ferrule.runtime.model import Model
from ferrule.runtime.runner import ModelRunner
from ferrule.weight_memory import copy_note, scratch_bytes, weight_bytes

Report = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with its weights, and what was asked of it.

    Attributes:
        options: As asked, with the choice of copies settled.
        chosen: What it was made from.
        model: With weights.
        dtype: Of activations.
        device: Where it is.
    """

    options: EngineOptions
    chosen: Match
    model: Model
    dtype: torch.dtype
    device: torch.device

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.chosen.config

    @cached_property
    def specs(self) -> list[AttentionSpec]:
        """Its attention layers."""
        return self.model.attention_specs()

    @cached_property
    def limits(self) -> BatchLimits:
        """Of a step."""
        return batch_limits(self.options, self.device)

    @property
    def has_copies(self) -> bool:
        """Whether packed weights have 16-bit copies beside them."""
        return self.options.gguf_resident_copy == "on"


def assemble(loaded: Loaded, adapters: NamedAdapters, report: Report) -> tuple[Engine, EngineInfo]:
    """Makes an engine that takes requests.

    Args:
        loaded: The model.
        adapters: To be put beside it.
        report: Told of each stage.

    Raises:
        FerruleError: The options or the memory do not allow it.
    """
    loras = enable_lora(
        loaded.options,
        adapters,
        cast("nn.Module", loaded.model),
        max_batch_size=loaded.limits.num_sequences,
        dtype=loaded.dtype,
        device=loaded.device,
    )
    max_length, num_blocks = _size_cache(loaded, _cache_budget(loaded))
    per_block = block_bytes(
        loaded.specs, block_size=loaded.options.kv_cache_page_size, dtype=loaded.dtype
    )
    kv_bytes = (num_blocks + NUM_EXTRA_BLOCKS) * per_block
    report(Progress(stage="allocating KV cache", detail=gib(kv_bytes)))
    vocab_size = loaded.config.vocab_size + loras.num_added_rows
    runner = _make_runner(loaded, loras, num_blocks, max_length, vocab_size)
    runner.warm_up(
        lambda done, total: report(
            Progress(stage="capturing graphs", fraction=done / total, detail=f"{done} of {total}")
        )
    )
    scheduler = Scheduler(
        BlockPool(num_blocks),
        max_batch_size=loaded.limits.num_sequences,
        max_batch_tokens=loaded.limits.num_tokens,
        max_length=max_length,
        block_size=loaded.options.kv_cache_page_size,
        enable_prefix_caching=loaded.options.enable_prefix_caching,
        loras=loras.known(),
    )
    return Engine(scheduler, runner), _describe(loaded, loras, num_blocks, max_length, kv_bytes)


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


def _cache_budget(loaded: Loaded) -> int:
    """Bytes that the weights and a step leave for keys and values."""
    options, dtype, device = loaded.options, loaded.dtype, loaded.device
    reserve = step_bytes(options, loaded.config, loaded.limits, dtype, device)
    if not loaded.has_copies:
        reserve += scratch_bytes(loaded.chosen.checkpoint.tensors, dtype, device)
    return kv_budget(options.device_memory_utilization, device, reserve=reserve)


def _size_cache(loaded: Loaded, budget: int) -> tuple[int, int]:
    """The context that is served and the blocks that are allocated.

    A context that nobody asked for shrinks to what fits.

    Args:
        loaded: The model.
        budget: Bytes for the cache.
    """
    options, specs, dtype = loaded.options, loaded.specs, loaded.dtype
    block_size = options.kv_cache_page_size
    if options.num_kv_blocks is not None:
        budget = options.num_kv_blocks * block_bytes(specs, block_size=block_size, dtype=dtype)
    max_length = options.max_length or longest_context(
        specs,
        block_size=block_size,
        dtype=dtype,
        context_length=loaded.config.context_length,
        budget=budget,
    )
    blocks = num_kv_blocks(
        specs,
        block_size=block_size,
        dtype=dtype,
        max_length=max_length,
        max_batch_size=loaded.limits.num_sequences,
        budget=budget,
    )
    return max_length, options.num_kv_blocks or blocks


def _make_runner(
    loaded: Loaded, loras: EnabledLora, num_blocks: int, max_length: int, vocab_size: int
) -> KernelRunner | ModelRunner:
    """By kernels where they fit, and in plain torch elsewhere."""
    model, options, device = loaded.model, loaded.options, loaded.device
    cache = KVCache(
        loaded.specs,
        num_blocks=num_blocks,
        block_size=options.kv_cache_page_size,
        dtype=loaded.dtype,
        device=device,
    )
    runner_type = KernelRunner if fits_kernels(loaded.specs, device) else ModelRunner
    if runner_type is KernelRunner and isinstance(model, nn.Module):
        compile_layers(model, lora=loras.slots and loras.slots.state)
    return runner_type(
        model,
        cache,
        max_batch_size=loaded.limits.num_sequences,
        max_tokens=loaded.limits.num_tokens,
        max_length=max_length,
        vocab_size=vocab_size,
        num_known_tokens=options.num_known_tokens or loaded.config.vocab_size,
        device=device,
        loras=loras.slots,
    )


def _describe(
    loaded: Loaded, loras: EnabledLora, num_blocks: int, max_length: int, kv_bytes: int
) -> EngineInfo:
    """What is served, for the server to show."""
    chosen, dtype, device = loaded.chosen, loaded.dtype, loaded.device
    tensors, has_copies = chosen.checkpoint.tensors, loaded.has_copies
    return EngineInfo(
        architecture=chosen.architecture.name,
        weight_adapter=" + ".join(adapter.name for adapter in chosen.adapters),
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_length=max_length,
        vocab_size=loaded.config.vocab_size,
        num_blocks=num_blocks,
        block_size=loaded.options.kv_cache_page_size,
        max_batch_size=loaded.limits.num_sequences,
        weight_bytes=weight_bytes(tensors, dtype, device, has_copies=has_copies),
        kv_bytes=kv_bytes,
        notes=[
            *chosen.notes,
            *_length_note(loaded, max_length),
            *copy_note(tensors, dtype, device, has_copies=has_copies),
        ],
        loras=dict(loras.infos),
        max_lora_rank=loras.rank,
        lora_bytes=loras.num_bytes,
    )


def _length_note(loaded: Loaded, max_length: int) -> list[str]:
    most = loaded.config.context_length
    if loaded.options.max_length is None and max_length < most:
        return [
            f"the model's context of {most} tokens does not fit into the memory "
            f"that is free: {max_length} are served"
        ]
    return []
