"""Work of a step that runs beside its main line, on a stream of its own.

Small kernels that fill a part of the device, such as an adapter's first product, cost hardly
anything beside one that waits for memory. In a captured graph they become a branch.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache

import torch

from ferrule.kernels.overlap import overlapping, wait_for_all

_is_beside = False


def is_beside() -> bool:
    """Whether what is launched now runs beside something: it shares no scratch with that."""
    return _is_beside


@contextmanager
def beside(device: torch.device) -> Generator[None]:
    """What is launched inside may run together with what is launched after it, up to ``join``."""
    global _is_beside
    assert not _is_beside
    if device.type != "cuda":
        yield
        return
    side = _side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    _is_beside = True
    try:
        with torch.cuda.stream(side), overlapping(False):
            yield
    finally:
        _is_beside = False


def join(device: torch.device) -> None:
    """What is launched from now on comes after what was launched beside."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).wait_stream(_side_stream(device))
        wait_for_all()


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
