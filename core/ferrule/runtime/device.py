"""Which device and which number type to run on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import OptionError

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_OF_FORMAT = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``gpu`` or ``gpu:N`` as a torch device.

    Raises:
        OptionError: There is no such device here.
    """
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    found = re.fullmatch(r"gpu(?::(\d+))?", name)
    if found is None:
        raise OptionError(f"--devices is {name!r}; expected auto, cpu, gpu or gpu:N.")
    index, count = int(found[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise OptionError(
            f"--devices asks for GPU {index}, and torch sees {count or 'none'}.",
            hint="Take --devices cpu, or check `nvidia-smi` and that torch is a CUDA build.",
        )
    return torch.device("cuda", index)


def resolve_dtype(name: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """The activations' type.

    ``auto`` takes what the file holds most of. Packed (quantised) weights are computed in
    bfloat16. A CPU computes float16 in float32, which holds every float16 exactly.

    Raises:
        OptionError: The name is unknown, or the device cannot compute it.
    """
    if name not in _DTYPES and name != "auto":
        raise OptionError(f"--dtype is {name!r}; expected auto, {', '.join(_DTYPES)}.")
    if name == "auto":
        dtype = _stored_dtype(checkpoint, checkpoint.config)
        return torch.float32 if device.type == "cpu" and dtype is torch.float16 else dtype
    if device.type == "cuda" and name == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise OptionError(
            f"{torch.cuda.get_device_name(device)} cannot compute bfloat16.",
            hint="Take --dtype float16 or float32.",
        )
    return _DTYPES[name]


def _stored_dtype(checkpoint: Checkpoint, config: Mapping[str, Any]) -> torch.dtype:
    sizes: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        sizes[info.format] += info.nbytes
    if sizes:
        return _OF_FORMAT.get(sizes.most_common(1)[0][0], torch.bfloat16)
    return _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.bfloat16)
