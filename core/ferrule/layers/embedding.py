"""Token embeddings, which may be the output head as well."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ferrule.layers.lora import HEAD, LoraSite, LoraState, PoolSizes
from ferrule.layers.lora_embedding import EmbeddingPool
from ferrule.layers.lora_pool import LoraPool, PoolSite
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
        self.lora: EmbeddingPool | None = None
        self.head_lora: LoraPool | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """``[...] -> [..., hidden_size]``."""
        assert self.storage is not None
        if self.lora is None or not self.lora.is_active:
            return self.storage.gather(tokens)
        # An adapter's rows may know tokens that this matrix has no row for.
        known = tokens.clamp(max=self.vocab_size - 1)
        return self.lora.add(tokens, self.storage.gather(known))

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden_size] -> [..., vocab_size]``."""
        assert self.storage is not None
        assert self.tied
        y = self.storage.multiply(hidden)
        pool = self.head_lora
        return y if pool is None or not pool.is_active else pool.add(hidden, y)

    def enable_lora(self, path: str, state: LoraState, sizes: PoolSizes) -> dict[str, LoraSite]:
        """The rows' place for adapters, and the head's if that is tied; see ``TakesLora``."""
        self.lora = EmbeddingPool(state, sizes, (self.vocab_size, self.hidden_size), self._dense)
        if not self.tied:
            return {path: self.lora}
        self.head_lora = LoraPool(state, sizes, self.hidden_size, {HEAD: self.vocab_size})
        head = PoolSite(pool=self.head_lora, index=0, read=lambda: (self._dense(), None))
        return {path: self.lora, HEAD: head}

    def _dense(self) -> Tensor:
        assert self.storage is not None
        return self.storage.dense()

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
