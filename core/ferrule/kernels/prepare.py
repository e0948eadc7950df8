"""Makes Triton and the matrix library ready by a thread, while weights are loaded."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch

from ferrule import kernels
from ferrule.kernels.available import has_triton

_log = logging.getLogger(__name__)


@contextmanager
def preparing(device: torch.device) -> Generator[None]:
    """Does beside a ``with`` block what the first kernels would be kept waiting for.

    It has ended when the block has: nothing else may run while a graph is captured.

    Args:
        device: Where kernels will run.
    """
    if device.type != "cuda" or not has_triton():
        yield
        return
    thread = threading.Thread(target=_prepare, args=(device,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _prepare(device: torch.device) -> None:
    try:
        _digest_compiler()
        for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
            importlib.import_module(module.name)
        square = torch.zeros(16, 16, dtype=torch.float16, device=device)
        torch.mm(square, square)
    except Exception:
        # Whoever runs a kernel is told what is wrong, and of which one.
        _log.debug("kernels are not prepared", exc_info=True)


def _digest_compiler() -> None:
    """Triton looks kernels up by a digest of itself: 400 MB, and it remembers the result."""
    from triton.runtime.cache import triton_key

    triton_key()
