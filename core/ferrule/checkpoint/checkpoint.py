"""One stored model: its config, its tensors' headers, and their bytes on demand."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """What a header says of one tensor.

    Attributes:
        name: As stored.
        shape: Row-major, as torch has it: ``[out, in]`` for a linear weight.
        format: The weight format's name: ``F32``, ``BF16``, ``Q4_K`` ...
        file: Where its bytes are.
        offset: At which byte of the file they begin.
        nbytes: How many there are.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A stored model whose headers have been read and checked; its bytes are mapped, not read.

    Attributes:
        location: What the user gave, for messages.
        kind: The container of the weights.
        config: config.json, or a GGUF's metadata without its big arrays.
        tensors: Headers by stored name.
        generation_config: generation_config.json, or what a GGUF says of it; may be empty.
        files: Small files beside the weights (tokenizer.json ...), by file name.
        metadata: A GGUF's metadata, arrays included; empty for safetensors.
    """

    location: str
    kind: Literal["safetensors", "gguf"]
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    generation_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    # Kept here and not by path for the whole process: a file may be written anew, and whoever
    # opens it then must not read the bytes of the old one.
    _maps: dict[Path, NDArray[np.uint8]] = field(
        default_factory=dict[Path, NDArray[np.uint8]], init=False, repr=False, compare=False
    )

    def read(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of one tensor: ``[nbytes]`` uint8, a view of the mapped file.

        The map is private (copy on write), so the view may be handed to code that wants a
        writable buffer; nothing is ever written back.

        Raises:
            KeyError: There is no tensor of this name.
        """
        info = self.tensors[name]
        if info.file not in self._maps:
            self._maps[info.file] = _mapped(info.file)
        return self._maps[info.file][info.offset : info.offset + info.nbytes]


def _mapped(file: Path) -> NDArray[np.uint8]:
    with file.open("rb") as handle:
        return np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
