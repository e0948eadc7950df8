"""What a model needs of memory before any of it is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ferrule.assembly import step_bytes
from ferrule.batch_limits import batch_limits
from ferrule.build import settle_copies
from ferrule.engine.options import EngineOptions
from ferrule.inspection.report import Memory
from ferrule.layers.attention import AttentionSpec
from ferrule.matching import Match
from ferrule.runtime.kv_cache import block_bytes
from ferrule.runtime.memory import free_memory, kv_budget
from ferrule.weight_memory import weight_bytes


def needed_memory(
    match: Match,
    specs: Sequence[AttentionSpec],
    options: EngineOptions,
    *,
    dtype: torch.dtype,
    device: torch.device,
    context: int,
) -> Memory:
    """Reckons weights and KV cache as serving with these options would.

    Args:
        match: The model.
        specs: Its attention layers.
        options: Batch, page size and share of the memory.
        dtype: Of weights, keys and values.
        device: Where they would be.
        context: Tokens of one sequence.

    Raises:
        OptionError: The share of the memory is out of range.
    """
    tensors = match.checkpoint.tensors
    has_copies = settle_copies(options, match, dtype, device).gguf_resident_copy == "on"
    weights = weight_bytes(tensors, dtype, device, has_copies=has_copies)
    block_size = options.kv_cache_page_size
    per_block = block_bytes(specs, block_size=block_size, dtype=dtype)
    budget = _budget(match, options, dtype, device, weights)
    room = max(budget, 0) // per_block * block_size
    return Memory(
        free_bytes=free_memory(device),
        stored_bytes=sum(info.nbytes for info in match.checkpoint.stored.tensors.values()),
        weight_bytes=weights,
        kv_bytes_per_token=per_block // block_size,
        context=context,
        kv_bytes=-(-context // block_size) * per_block,
        context_that_fits=min(room, match.config.context_length),
        kv_tokens_that_fit=room,
    )


def _budget(
    match: Match,
    options: EngineOptions,
    dtype: torch.dtype,
    device: torch.device,
    weights: int,
) -> int:
    """What the KV cache may take once the weights are loaded."""
    limits = batch_limits(options, device)
    reserve = step_bytes(options, match.config, limits, dtype, device)
    share = options.device_memory_utilization
    return kv_budget(share, device, reserve=reserve, not_loaded=weights)
