"""The adapters' parts for an embedding: low-rank rows, or rows of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ferrule.layers.lora import Copy, LoraMode, LoraPart, LoraState, PoolSizes


class EmbeddingPool:
    """What a few adapters have beside one embedding, each for itself: few adapters touch it.

    Args:
        state: Of the model.
        sizes: How many adapters.
        shape: Rows and columns of the model's own embedding.
        dense: Gives that.
    """

    gathers = True

    def __init__(
        self,
        state: LoraState,
        sizes: PoolSizes,
        shape: tuple[int, int],
        dense: Callable[[], Tensor],
    ) -> None:
        self.shape = shape
        self._state = state
        self._dense = dense
        # By slot.
        self._parts: list[LoraPart | None] = [None] * sizes.num_slots

    @property
    def is_active(self) -> bool:
        """Whether the step's rows may want something here."""
        return self._state.mode is LoraMode.OWN

    def base(self) -> tuple[Tensor, Tensor | None]:
        """The model's own rows; an embedding has no bias."""
        return self._dense(), None

    def allocate(self, part: LoraPart) -> int:
        """Nothing is kept for all adapters together."""
        return 0

    def touch(self, part: LoraPart) -> bool:
        """Nothing that a graph would hold."""
        return False

    def place(self, slot: int, part: LoraPart | None) -> list[Copy]:
        """Takes a part whose tensors are where the model is."""
        self._parts[slot] = part
        return []

    def add(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Puts into ``y`` what the adapters of its rows have.

        Args:
            tokens: ``[tokens]``.
            y: ``[tokens, hidden]``, the model's own rows; takes the result.
        """
        for slot, index in self._state.rows(tokens.shape[0]).groups:
            part = self._parts[slot]
            if part is not None:
                y[index] = _embedded(tokens[index], y[index], part)
        return y


def _embedded(tokens: Tensor, y: Tensor, part: LoraPart) -> Tensor:
    if part.own is not None:
        y = F.embedding(tokens, part.own)
    if part.a is not None and part.b is not None:
        # Columns of A by token: a product with one-hot vectors would be the same.
        low = part.a.index_select(1, tokens.reshape(-1)).t()
        y = y + F.linear(low, part.b).view_as(y)
    return y
