"""What a weight format must offer, and the formats there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class Storage(Protocol):
    """A matrix of weights on a device, in whatever layout its format multiplies fastest."""

    num_rows: int
    num_cols: int

    def write(self, start: int, data: Tensor, format: Format) -> None:
        """Stores whole rows as the file has them.

        Args:
            start: First row to write.
            data: ``[rows, format.row_bytes(num_cols)]`` uint8, on the CPU.
            format: What the bytes are.
        """
        ...

    def finish(self, *, gathers: bool = False, multiplies: bool = True) -> None:
        """Called once after the last write; may repack for what will be asked of it."""
        ...

    def multiply(
        self, x: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
    ) -> Tensor:
        """``x @ W.T + bias + add_to``: ``[..., num_cols] -> [..., num_rows]``.

        ``add_to`` may take the result.
        """
        ...

    def multiply_gated(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``silu(gate) * up`` of a matrix of gates above ups: ``-> [..., num_rows / 2]``."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Rows by index, dequantised: ``[...] -> [..., num_cols]``."""
        ...

    def dense(self) -> Tensor:
        """The whole matrix dequantised: ``[num_rows, num_cols]``."""
        ...


@runtime_checkable
class MultipliesBeside(Protocol):
    """A storage whose product may go beside those of others of its kind into one output."""

    def multiply_beside(
        self,
        others: Sequence[Storage],
        x: Tensor,
        out: Tensor,
        bias: Tensor | None,
        *,
        adds: bool,
    ) -> None:
        """Writes this product and those of others to ``out``, side by side, or adds them.

        Args:
            others: Storages of the same class and of as many columns.
            x: ``[rows, num_cols]``.
            out: ``[rows, rows of all]``, contiguous within a row.
            bias: Of all, one after another.
            adds: Whether what is in ``out`` is kept.
        """
        ...


class Format(Protocol):
    """How weights lie in a file: each row is a whole number of blocks."""

    @property
    def name(self) -> str:
        """As checkpoints have it: ``BF16``, ``Q4_K`` ..."""
        ...

    @property
    def layout(self) -> str:
        """Rows in formats of equal layout may share one storage."""
        ...

    @property
    def block_size(self) -> int:
        """Weights in a block."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        ...

    def row_bytes(self, num_cols: int) -> int:
        """Bytes of one stored row."""
        ...

    def dequantize(self, data: Tensor) -> Tensor:
        """``[..., bytes]`` uint8 to ``[..., weights]`` in the format's exact float type."""
        ...

    def allocate(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> Storage:
        """Room for a matrix; ``dtype`` is that of the activations it will meet."""
        ...

    def allocated_bytes(
        self, num_rows: int, num_cols: int, *, dtype: torch.dtype, device: torch.device
    ) -> int:
        """Bytes that the same matrix takes of the device's memory once it is loaded."""
        ...


FormatTable = Mapping[str, Format]
