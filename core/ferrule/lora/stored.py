"""An adapter as its file has it, whatever the container: parts of modules under their own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ferrule.adapter import WeightAdapter
from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import CheckpointError
from ferrule.lora.peft_config import PeftConfig
from ferrule.quantization.formats import FORMATS


class Scale(Protocol):
    """What a module's ``B A`` is multiplied by."""

    def __call__(self, rank: int, *names: str) -> float:
        """From the rank, and the module's names in the adapter and in the base."""
        ...


class PartKind(StrEnum):
    """What a tensor is of its module."""

    a = "A"
    b = "B"
    embedding_a = "embedding A"
    embedding_b = "embedding B"
    lora_bias = "bias of B"
    magnitude = "magnitude"
    bias = "bias"
    weight = "weight"
    base_weight = "base weight"
    token_rows = "token rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One tensor of an adapter.

    Attributes:
        stored: Its name in the file.
        module: The module that it belongs to, as the adapter spells it.
        kind: What it is of that module. ``bias`` and ``base_weight`` stand in place of the base's
            own, also where that is tied; ``weight`` is a trained copy of this module alone.
    """

    stored: str
    module: str
    kind: PartKind


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredAdapter:
    """An adapter whose headers and config have been read; nothing is known of the base yet.

    Attributes:
        container: ``peft``, ``mistral`` or ``gguf``.
        checkpoint: Where the tensors are read; its config says a GGUF's architecture.
        parts: Tensors that are understood.
        unknown: Names of tensors that are not.
        scale: Gives a module's scale from its rank and its names: the adapter's, the base's.
        base: The model that it was trained on, in its own words; empty if it does not say.
        config: PEFT's; None for other containers.
        dialect: Reads the names; None lets installed weight adapters find out.
        files: The adapter's own tokenizer and chat template, by file name.
        notes: What people should know.
    """

    container: str
    checkpoint: Checkpoint
    parts: tuple[Part, ...]
    unknown: tuple[str, ...]
    scale: Scale
    base: str
    config: PeftConfig | None = None
    dialect: WeightAdapter | None = None
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    notes: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """As the user gave it."""
        return self.checkpoint.location

    def read(self, stored: str) -> Tensor:
        """A tensor as stored, dequantised if it is packed.

        Raises:
            CheckpointError: It is no matrix or vector of floating-point numbers.
        """
        info = self.checkpoint.tensors[stored]
        if info.format not in FORMATS or len(info.shape) not in (1, 2):
            raise CheckpointError(
                f"{self.location}: the tensor {stored} is {list(info.shape)} in {info.format}; "
                f"a matrix or vector in one of {', '.join(FORMATS)} is expected.",
                hint="An incomplete save of a sharded training leaves empty tensors: save it anew.",
            )
        data = torch.from_numpy(self.checkpoint.read(stored))
        rows = data.reshape(prod(info.shape[:-1]), -1)
        # A copy: the file may be written anew while the adapter is served.
        return FORMATS[info.format].dequantize(rows).reshape(info.shape).clone()
