"""What a module says of the weights it takes, so that loading needs to know no module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ferrule.quantization.format import Format


@runtime_checkable
class TakesWeights(Protocol):
    """A module that owns its storage; plain ``nn.Parameter``s need none of this.

    The loader asks for the names, compares them with the file, has the storage allocated in
    the formats that the file holds, writes every tensor once and says when it is done.
    """

    def weight_shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """Canonical name to shape of every tensor taken; ``path`` is the module's own."""
        ...

    def allocate(
        self, formats: Mapping[str, Format], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Makes room; ``formats`` has an entry for each of the names."""
        ...

    def write(self, name: str, data: Tensor, format: Format) -> None:
        """Stores one tensor: ``[rows, row_bytes]`` uint8 on the CPU."""
        ...

    def finish(self) -> None:
        """Called once after the last write."""
        ...
