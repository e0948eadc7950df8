"""What a config means, and which module computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.model_config import ModelConfig

if TYPE_CHECKING:
    # torch costs a second to import, and naming architectures does not need it.
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A model family; knows no file format, no quantisation, no LoRA.

    Attributes:
        name: What ``--architecture`` takes; unique among all installed plugins.
        matches: Whether a config (Hugging Face's keys) is of this family.
        configure: Reads the numbers from a checkpoint whose names and config keys a weight
            adapter has made canonical. Gets the tensors' headers too, because ties, vocabulary
            rows and biases follow the file. Raises ConfigError for a key that changes arithmetic
            and is not understood.
        build: Makes the module; called under ``torch.device("meta")``, so it allocates nothing.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    configure: Callable[[Checkpoint], ModelConfig]
    build: Callable[[ModelConfig], nn.Module]
