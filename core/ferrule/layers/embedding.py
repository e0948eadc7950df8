"""Token embeddings, which may be the output head as well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ferrule.quantization.format import Format, Storage


class Embedding(nn.Module):
    """Rows by token id; with ``tied`` the same rows give the logits.

    Args:
        vocab_size: Rows.
        hidden_size: Columns.
        tied: Whether ``logits`` will be asked for.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, tied: bool = False) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.tied = tied
        self.storage: Storage | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """``[...] -> [..., hidden_size]``."""
        assert self.storage is not None
        return self.storage.gather(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden_size] -> [..., vocab_size]``."""
        assert self.storage is not None
        assert self.tied
        return self.storage.multiply(hidden)

    def weight_shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """The one weight."""
        return {f"{path}.weight": (self.vocab_size, self.hidden_size)}

    def allocate(
        self, formats: Mapping[str, Format], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Room for the rows."""
        (format,) = formats.values()
        self.storage = format.allocate(
            self.vocab_size, self.hidden_size, dtype=dtype, device=device
        )

    def write(self, name: str, data: Tensor, format: Format) -> None:
        """Stores the rows."""
        assert self.storage is not None
        self.storage.write(0, data, format)

    def finish(self) -> None:
        """Rows stay readable; a head may need them in another layout as well."""
        assert self.storage is not None
        self.storage.finish(gathers=True, multiplies=self.tied)
