"""Grouped-query attention around a seam: the module never sees a page, a batch or a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ferrule.layers.linear import Linear
from ferrule.layers.rope import Rotation
from ferrule.model_config import ModelConfig


class Attend(Protocol):
    """Attention over all that a layer's sequences hold.

    The runtime makes one for each layer and binds it to that layer's cache; a test passes plain
    causal attention.
    """

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation | None = None, /
    ) -> Tensor:
        """``[tokens, heads, head_dim]`` and twice ``[tokens, kv_heads, head_dim]``.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            rotation: By how much q and k are still to be rotated, so that one kernel may rotate
                them and write the cache; None: they are.

        Returns:
            ``[tokens, heads, head_dim]``.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """What the runtime must know of one attention layer.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Channels of a head.
        window: How many tokens back a token sees, itself included; None: all.
        scale: Of the scores before softmax.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    scale: float


class Attention(nn.Module):
    """Projects, rotates, attends, projects back.

    Args:
        config: Sizes and biases.
        window: Of this layer.
    """

    def __init__(self, config: ModelConfig, window: int | None = None) -> None:
        super().__init__()
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.spec = AttentionSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            window=window,
            scale=dim**-0.5,
        )
        parts = {"q_proj": heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        self.qkv_proj = Linear(config.hidden_size, parts, bias=config.qkv_bias)
        self.o_proj = Linear(heads * dim, config.hidden_size, bias=config.o_bias)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """``[tokens, hidden_size] -> [tokens, hidden_size]``."""
        heads, kv_heads = self.spec.num_heads, self.spec.num_kv_heads
        qkv = self.qkv_proj(hidden).unflatten(-1, (heads + 2 * kv_heads, self.spec.head_dim))
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
        return self.o_proj(attend(q, k, v, rotation).flatten(-2))
