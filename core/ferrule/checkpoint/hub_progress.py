"""Turns the Hub client's progress bars into calls of a progress function."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from huggingface_hub.utils import tqdm


def byte_counter(progress: Callable[[str, float | None, str], None], *, total: int) -> type[tqdm]:
    """A class for the client's ``tqdm_class`` that shows nothing and counts bytes.

    Args:
        progress: Called with ``"download"``, the fraction done, and the amounts.
        total: Bytes of all files; what the cache has already is not counted as it is not fetched.
    """
    lock = Lock()
    # The client counts the same bytes in several bars: as they arrive, and as they are written.
    num_bytes: dict[int, int] = {}

    class Counter(tqdm):
        def __init__(self, *args: object, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if not self._counts_bytes:
                return
            with lock:
                num_bytes[id(self)] = num_bytes.get(id(self), 0) + int(n or 0)
                done = min(max(num_bytes.values()), total)
            progress(
                "download", done / total if total else None, f"{_size(done)} of {_size(total)}"
            )

    return Counter


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} B"
