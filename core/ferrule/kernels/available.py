"""Whether Triton kernels can run on a tensor's device."""

from __future__ import annotations

import importlib.util
from functools import lru_cache

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """Whether a plain call of a kernel works on this tensor.

    Not while ``torch.compile`` traces: it fuses plain torch better than it sees through kernels.
    """
    # This order: what looks for Triton cannot be traced.
    return not torch.compiler.is_compiling() and x.is_cuda and has_triton()


@lru_cache
def has_triton() -> bool:
    """Whether Triton is installed; torch brings it on Linux with CUDA."""
    return importlib.util.find_spec("triton") is not None
