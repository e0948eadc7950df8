"""Programmatic dependent launch: a kernel that starts before the one in front of it has ended.

A kernel that takes part calls ``follow`` before it touches what an earlier one wrote. It lets
the next kernel start at once and then waits until the one in front is done; what a kernel does
before that (asking for weights, which nobody writes) fills the gap between the two. A kernel that
did not wait would not only race itself but free those behind it to race, so all of them wait;
kernels without the option are launched when all in front of them are done, as ever. Such a one may
still let the next start at once (packed.py does): it has waited already.
(CUDA programming guide, "Programmatic Dependent Launch and Synchronization"; Hopper and later.)
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

_is_on = False
_comes_after_several = False


def launch_options(device: torch.device) -> dict[str, Any]:
    """Keyword arguments for a kernel launch: ``OVERLAP``, and what Triton needs for it."""
    global _comes_after_several
    has_one_in_front, _comes_after_several = not _comes_after_several, False
    if _is_on and has_one_in_front and is_hopper(device):
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@contextmanager
def overlapping(value: bool) -> Generator[None]:
    """Whether kernels launched inside overlap; their results are the same, bit for bit."""
    global _is_on
    before, _is_on = _is_on, value
    try:
        yield
    finally:
        _is_on = before


def wait_for_all() -> None:
    """The kernel that is launched next has several in front, and waits for their ends as ever."""
    global _comes_after_several
    _comes_after_several = True


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have on chip: 227 KiB on Hopper, 99 on consumer cards."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@lru_cache
def is_hopper(device: torch.device) -> bool:
    """Whether it has what Hopper brought: dependent launch, and an engine that copies tiles."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
