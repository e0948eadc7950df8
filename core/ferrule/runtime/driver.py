"""Has a GPU's driver begin before torch is imported, so that both take their seconds together."""

from __future__ import annotations

import ctypes
import re
import threading
from contextlib import suppress

_LIBRARY = "libcuda.so.1"


def wake_driver(devices: str, *, library: str = _LIBRARY) -> threading.Thread | None:
    """Begins, in a thread, what torch would do when it first looks at a device.

    The context is the one that torch takes too. Nothing is said of what fails: torch meets the
    same and says it better.

    Args:
        devices: ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.
        library: The driver's.

    Returns:
        The thread; None where no GPU is wanted.
    """
    wanted = re.fullmatch(r"(?:auto|gpu)(?::(\d+))?", devices)
    if wanted is None:
        return None
    thread = threading.Thread(target=_wake, args=(int(wanted[1] or 0), library), daemon=True)
    thread.start()
    return thread


def _wake(index: int, library: str) -> None:
    with suppress(OSError, AttributeError):
        # It lets other threads run while it is in the driver.
        driver = ctypes.CDLL(library)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        # Each returns 0 unless it fails.
        _ = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        )
