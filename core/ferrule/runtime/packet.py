"""Many small arrays to the device in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16
_DTYPES = {
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.float32): torch.float32,
}


def send(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Copies arrays to the device, without waiting for it.

    Args:
        arrays: Contiguous; int64, int32 or float32.
        device: Where they go.

    Returns:
        One tensor for each array, all in one piece of the device's memory.
    """
    starts: list[int] = []
    end = 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    # The pinned memory is not used again before the copy is done: torch's allocator sees to it.
    host = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    view = host.numpy()
    for start, array in zip(starts, arrays, strict=True):
        view[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    packed = host.to(device, non_blocking=True)
    return [
        packed[start : start + array.nbytes].view(_DTYPES[array.dtype]).view(array.shape)
        for start, array in zip(starts, arrays, strict=True)
    ]
