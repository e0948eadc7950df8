"""The most that one step runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ferrule.engine.options import EngineOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """The most that one step runs.

    Attributes:
        num_sequences: Sequences together.
        num_tokens: Tokens, prefill and decode together.
    """

    num_sequences: int
    num_tokens: int


# On a CPU a step of 512 tokens already takes many times as long as its weights take to read, so
# larger ones would only make other streams wait; a GPU needs some two thousand to be busy.
_CPU_LIMITS = BatchLimits(num_sequences=32, num_tokens=512)
_GPU_LIMITS = BatchLimits(num_sequences=256, num_tokens=2048)


def batch_limits(options: EngineOptions, device: torch.device) -> BatchLimits:
    """What was asked for, or what suits the device."""
    default = _GPU_LIMITS if device.type == "cuda" else _CPU_LIMITS
    num_sequences = options.max_batch_size or default.num_sequences
    num_tokens = options.max_batch_input_tokens or max(default.num_tokens, num_sequences)
    return BatchLimits(num_sequences=num_sequences, num_tokens=num_tokens)
