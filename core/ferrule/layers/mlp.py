"""The gated feed-forward network (SwiGLU, arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn

from ferrule.layers.linear import Linear


class MLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``.

    Args:
        hidden_size: Width outside.
        intermediate_size: Width inside.
        bias: Whether the three projections add a bias.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        parts = {"gate_proj": intermediate_size, "up_proj": intermediate_size}
        self.gate_up_proj = Linear(hidden_size, parts, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, hidden: Tensor, add_to: Tensor | None = None) -> Tensor:
        """``[..., hidden_size] -> [..., hidden_size]``, added to ``add_to``, which may take it."""
        return self.down_proj(self.gate_up_proj.gated(hidden), add_to)
