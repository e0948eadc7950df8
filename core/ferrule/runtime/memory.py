"""How much memory is free, and how many KV blocks fit into it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.layers.attention import AttentionSpec
from ferrule.model_config import ModelConfig
from ferrule.runtime.batch import MAX_GATHERED_TOKENS
from ferrule.runtime.device_sampling import BYTES_A_TOKEN
from ferrule.runtime.kv_cache import block_bytes

_GIB = 1024**3
_GPU_SHARE = 0.9
_HOST_SHARE = 0.5
# What cuBLAS, the allocator's rounding and kernels' scratch take beside what is counted.
_LIBRARIES = 256 * 1024**2
# CUDA graphs of some 300 kernels each, a hundred of them at most.
_GRAPHS = 2 * 1024**3

PROMPT_LOGITS_ROWS = 256
"""Rows of a prompt whose logits are computed together when a request wants them."""


def total_memory(device: torch.device) -> int:
    """Bytes of the device, or of what this process may use of the host."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return min(psutil.virtual_memory().total, _container_limit())


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated."""
    if device.type == "cuda":
        # What an earlier model of this process left in torch's cache counts as free.
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    left = _container_limit() - _container_usage()
    return min(psutil.virtual_memory().available, max(left, 0))


_CGROUP = Path("/sys/fs/cgroup")


def _container_limit() -> int:
    """Bytes that the container may use (Linux control groups, version 2 then 1)."""
    for path in (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes"):
        if path.exists() and (text := path.read_text().strip()) != "max":
            return int(text)
    return 1 << 62


def _container_usage() -> int:
    """Bytes of the container that are not page cache, which the kernel gives back."""
    for path in (_CGROUP / "memory.stat", _CGROUP / "memory" / "memory.stat"):
        if path.exists():
            stat = dict(line.split() for line in path.read_text().splitlines())
            return int(stat.get("anon", stat.get("total_rss", 0)))
    return 0


def kv_budget(
    share: float | None, device: torch.device, *, reserve: int, not_loaded: int = 0
) -> int:
    """Bytes that the KV cache may take.

    Args:
        share: Of the memory, which may be used; None: 0.9 of a GPU, and half of what is free on
            the host.
        device: Where the cache will be.
        reserve: Bytes that a step needs beside the cache.
        not_loaded: Bytes of weights that will be loaded before the cache is made.

    Raises:
        OptionError: The share is not between 0 and 1.
    """
    if share is not None and not 0 < share <= 1:
        raise OptionError(
            f"--device-memory-utilization is {share}; expected more than 0 and at most 1."
        )
    free = free_memory(device) - not_loaded
    if device.type == "cuda":
        total = total_memory(device)
        return int(total * (share or _GPU_SHARE)) - (total - free) - reserve
    return int(free * (share or _HOST_SHARE)) - reserve


def activation_bytes(
    config: ModelConfig,
    *,
    max_batch_tokens: int,
    max_batch_size: int,
    context: int,
    dtype: torch.dtype,
    has_kernels: bool = False,
    has_loras: bool = False,
) -> int:
    """A bound of what a step needs beside weights and cache.

    A layer's widest moment holds the residual, the normed input, the gate, the up half and their
    product; queries, keys and values are narrower. Attention of a chunk behind a long context
    holds a mask, and keys and values gathered and repeated for all heads; that of decode rows
    holds what it gathered, perhaps twice. Logits are float32, and
    sampling keeps up to six copies of them (penalties, sorting with its indices, noise).
    Kernels read the cache where it lies; their steps are graphs, which take memory of the driver's,
    and penalties, biases and stop tokens lie on the device by slot.

    Args:
        config: Sizes.
        max_batch_tokens: Tokens of a step.
        max_batch_size: Sequences of a step.
        context: Tokens of the longest sequence.
        dtype: Of activations.
        has_kernels: Whether kernels compute attention and sampling.
        has_loras: Whether steps with adapters, which have graphs of their own, occur.
    """
    width = 4 * config.hidden_size + 4 * config.intermediate_size
    logits = max(max_batch_size, PROMPT_LOGITS_ROWS) * config.vocab_size * 4
    shared = max_batch_tokens * width * dtype.itemsize + 6 * logits + _LIBRARIES
    if has_kernels:
        graphs = _GRAPHS * (1 + has_loras)
        return shared + (max_batch_size + 1) * config.vocab_size * BYTES_A_TOKEN + graphs
    attention = context * (max_batch_tokens + 4 * config.num_heads * config.head_dim)
    gathered = min(MAX_GATHERED_TOKENS, max_batch_size * context)
    attention = max(attention, 4 * gathered * config.num_kv_heads * config.head_dim)
    return shared + attention * dtype.itemsize


def longest_context(
    specs: Sequence[AttentionSpec],
    *,
    block_size: int,
    dtype: torch.dtype,
    context_length: int,
    budget: int,
) -> int:
    """The model's context, or what of it fits into the budget, in tokens (at least one block)."""
    per_block = block_bytes(specs, block_size=block_size, dtype=dtype)
    fitting = max(budget, 0) // per_block * block_size
    return min(context_length, max(fitting, block_size))


def num_kv_blocks(
    specs: Sequence[AttentionSpec],
    *,
    block_size: int,
    dtype: torch.dtype,
    max_length: int,
    max_batch_size: int,
    budget: int,
) -> int:
    """How many blocks to allocate: what can be used at once, or what fits.

    Args:
        specs: The attention layers.
        block_size: Tokens in a block.
        dtype: Of keys and values.
        max_length: Most tokens in a sequence.
        max_batch_size: Most sequences at a time.
        budget: Bytes for the cache.

    Raises:
        OutOfMemoryError: Not even one sequence of ``max_length`` fits; says what would.
    """
    per_block = block_bytes(specs, block_size=block_size, dtype=dtype)
    fitting = max(budget, 0) // per_block
    per_sequence = -(-max_length // block_size)
    if fitting < per_sequence:
        raise OutOfMemoryError(
            f"A context of {max_length} tokens needs {gib(per_sequence * per_block)} of KV "
            f"cache, and {gib(max(budget, 0))} can be used for it.",
            hint=_what_would_fit(fitting * block_size),
        )
    return min(fitting, per_sequence * max_batch_size)


def _what_would_fit(num_tokens: int) -> str:
    if num_tokens == 0:
        return (
            "No context would fit. Free memory, raise --device-memory-utilization, or take a "
            "smaller or quantised model."
        )
    return (
        f"--max-length {num_tokens} would fit, or raise --device-memory-utilization if other "
        "programs leave more memory free."
    )


def gib(num_bytes: int) -> str:
    """Bytes for people."""
    if num_bytes < _GIB:
        return f"{num_bytes / 1024**2:.0f} MiB"
    return f"{num_bytes / _GIB:.2f} GiB"
