"""What an architecture must build for the runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ferrule.layers.attention import Attend, AttentionSpec


class Model(Protocol):
    """Tokens to hidden states, hidden states to logits."""

    def attention_specs(self) -> list[AttentionSpec]:
        """One for each ``attend``."""
        ...

    def __call__(self, tokens: Tensor, positions: Tensor, attends: Sequence[Attend]) -> Tensor:
        """``[tokens] -> [tokens, hidden_size]``."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden_size] -> [rows, vocab_size]``."""
        ...
