"""How a model lies in a GGUF file: llama.cpp's name of its architecture, and of each tensor."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import MODEL_ARCH, get_tensor_name_map

from ferrule.adapter import Permute
from ferrule.errors import ConfigError, LoadError
from ferrule.matching import Match
from ferrule.model_config import ModelConfig

# llama.cpp has no Mistral: what it calls llama is shaped like it.
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a canonical tensor goes.

    Attributes:
        name: As GGUF has it.
        heads: How many heads' rows are turned from halves to neighbouring pairs, as llama.cpp's
            rotation of ``llama`` wants q and k; 0: rows stay.
    """

    name: str
    heads: int = 0


def gguf_architecture(match: Match) -> str:
    """What ``general.architecture`` says of a model.

    Raises:
        ConfigError: llama.cpp's format has no word for something that the model computes.
    """
    name = match.architecture.name
    if name not in _ARCHITECTURES:
        raise ConfigError(
            f"Architecture {name!r} cannot be written as GGUF; those that can be are "
            f"{', '.join(_ARCHITECTURES)}.",
            hint="Serve the checkpoint as it is.",
        )
    _refuse_windows(_ARCHITECTURES[name], match.config)
    return _ARCHITECTURES[name]


def places(match: Match, architecture: str) -> dict[str, Place]:
    """For each canonical tensor of a model, where it goes.

    Raises:
        LoadError: GGUF has no name for one.
    """
    kind = MODEL_ARCH.LLAMA if architecture == "llama" else MODEL_ARCH.QWEN2
    table = get_tensor_name_map(kind, match.config.num_layers)
    found: dict[str, Place] = {}
    for name in match.checkpoint.tensors:
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise LoadError(f"GGUF files of {architecture!r} have no name for the tensor {name}.")
        heads = _heads(name, match.config) if architecture == "llama" else 0
        found[name] = Place(name=stored, heads=heads)
    return found


def stored_order(heads: int, num_rows: int) -> list[int]:
    """For each stored row of q or k, the canonical row: the inverse of ``adapter.Permute``."""
    canonical = Permute(heads="heads").index(num_rows, {"heads": heads})
    return canonical.argsort().tolist()


def _heads(name: str, config: ModelConfig) -> int:
    if ".self_attn.q_proj." in name:
        return config.num_heads
    return config.num_kv_heads if ".self_attn.k_proj." in name else 0


def _refuse_windows(architecture: str, config: ModelConfig) -> None:
    windows = set(config.windows)
    if windows == {None} or (architecture == "llama" and len(windows) == 1):
        return
    raise ConfigError(
        f"The model's attention has windows of {', '.join(map(str, config.windows[:4]))} ... "
        f"tokens by layer, which a GGUF file of {architecture!r} cannot say.",
        hint="Serve the checkpoint as it is.",
    )
