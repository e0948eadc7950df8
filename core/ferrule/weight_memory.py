"""How much memory weights take, and whether packed ones get a copy for products of many rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError, OutOfMemoryError
from ferrule.lora.base import EMBEDDING, HEAD
from ferrule.quantization.formats import FORMATS
from ferrule.quantization.packed import PackedStorage
from ferrule.runtime.memory import free_memory, gib, kv_budget

Tensors = Mapping[str, TensorInfo]

_KEPT_SHARE = 3
"""A copy is kept where it leaves the KV cache at least one part in so many."""


def weight_bytes(
    tensors: Tensors, dtype: torch.dtype, device: torch.device, *, has_copies: bool = False
) -> int:
    """Bytes of all weights once they are loaded for activations in ``dtype``."""
    copies = copy_bytes(tensors, dtype, device) if has_copies else 0
    return copies + sum(_loaded(info, dtype, device) for info in tensors.values())


def copy_bytes(tensors: Tensors, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of the copies that packed weights may get."""
    # Nothing multiplies by an embedding beside a head of its own.
    only_gathered = f"{EMBEDDING}.weight" if f"{HEAD}.weight" in tensors else None
    sizes = [
        _numbers(info)
        for name, info in tensors.items()
        if name != only_gathered and _is_packed(info, dtype, device)
    ]
    return sum(sizes) * dtype.itemsize


def scratch_bytes(tensors: Tensors, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of the largest dequantised matrix, which may be of two equal ones (gate and up)."""
    sizes = [_numbers(info) for info in tensors.values() if _is_packed(info, dtype, device)]
    return 2 * max(sizes, default=0) * dtype.itemsize


def keeps_copies(
    options: EngineOptions, tensors: Tensors, dtype: torch.dtype, device: torch.device, reserve: int
) -> bool:
    """Whether packed weights are kept in ``dtype`` as well; asked before they are loaded.

    Args:
        options: Of the engine.
        tensors: The weights.
        dtype: Of activations.
        device: Where all of it will be.
        reserve: Bytes that a step needs.

    Raises:
        OptionError: The option is none of auto, on and off.
    """
    choice = options.gguf_resident_copy
    if choice not in ("auto", "on", "off"):
        raise OptionError(f"--gguf-resident-copy is {choice!r}; expected auto, on or off.")
    copies = copy_bytes(tensors, dtype, device)
    if choice != "auto" or not copies:
        return choice == "on" and copies > 0
    share = options.device_memory_utilization
    weights = weight_bytes(tensors, dtype, device)
    left = kv_budget(share, device, reserve=reserve, not_loaded=weights)
    return left - copies >= left // _KEPT_SHARE and left > 0


def keep_copies(model: nn.Module) -> None:
    """Has every packed matrix of a loaded model keep a copy.

    Args:
        model: Whose modules hold storages in ``storages`` or ``storage``.
    """
    for module in model.modules():
        held = [*getattr(module, "storages", []), getattr(module, "storage", None)]
        for storage in held:
            if isinstance(storage, PackedStorage):
                storage.keep_copy()


def copy_note(
    tensors: Tensors, dtype: torch.dtype, device: torch.device, *, has_copies: bool
) -> list[str]:
    """What a user is told of copies; nothing where no weights are packed."""
    size = copy_bytes(tensors, dtype, device)
    if not size:
        return []
    if has_copies:
        return [f"prompts and large batches multiply by a copy of the weights of {gib(size)}"]
    return ["prompts and large batches dequantise weights anew: no copy of them is kept"]


def check_weights_fit(
    tensors: Tensors, dtype: torch.dtype, device: torch.device, *, has_copies: bool
) -> None:
    """Raises if there is less memory than they need.

    Raises:
        OutOfMemoryError: Says how much.
    """
    needed = weight_bytes(tensors, dtype, device, has_copies=has_copies)
    free = free_memory(device)
    if needed > free:
        kind = str(dtype).removeprefix("torch.")
        hint = "Free memory, or take a smaller or a 16-bit model."
        if has_copies:
            hint = "Take --gguf-resident-copy off, or free memory."
        raise OutOfMemoryError(
            f"The weights need {gib(needed)} as {kind}, and {gib(free)} are free on {device}.",
            hint=hint,
        )


def _loaded(info: TensorInfo, dtype: torch.dtype, device: torch.device) -> int:
    format = FORMATS.get(info.format)
    if format is None or len(info.shape) != 2:
        return _numbers(info) * dtype.itemsize
    return format.allocated_bytes(info.shape[0], info.shape[1], dtype=dtype, device=device)


def _is_packed(info: TensorInfo, dtype: torch.dtype, device: torch.device) -> bool:
    return device.type == "cuda" and _loaded(info, dtype, device) < _numbers(info) * dtype.itemsize


def _numbers(info: TensorInfo) -> int:
    return torch.Size(info.shape).numel()
