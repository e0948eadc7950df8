"""The numbers that shape a decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """How positions rotate queries and keys; names are transformers' ``rope_parameters``.

    Attributes:
        type: Which scaling; ``default`` has none.
        theta: The base of the geometric series of frequencies.
        rotary_dim: How many of a head's channels are rotated; an even number.
        factor: By how much the context is stretched.
        original_max_position_embeddings: The context before stretching, in tokens.
        low_freq_factor: llama3: wavelengths longer than original / this are stretched in full.
        high_freq_factor: llama3: wavelengths shorter than original / this stay.
        beta_fast: yarn: rotations above which a channel is extrapolated.
        beta_slow: yarn: rotations below which a channel is interpolated.
        attention_factor: yarn: scale of cos and sin; None takes the paper's formula.
        mscale: yarn, DeepSeek's variant of the scale.
        mscale_all_dim: yarn, DeepSeek's variant of the scale.
        truncate: yarn: round the correction range to whole channels.
        freq_factors: Divisors of each frequency, as a GGUF's ``rope_freqs.weight`` stores them.
    """

    type: RopeType = "default"
    theta: float = 10000.0
    rotary_dim: int
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    freq_factors: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The numbers of one decoder: no device, no path, no serving limit.

    Attributes:
        vocab_size: Rows of the embedding, as the file has them.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the MLP.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Channels of a head.
        rms_norm_eps: Added to the mean square before its root.
        max_position_embeddings: The context that the model was made for, in tokens.
        rope: How positions enter.
        windows: For each layer, how many tokens back it sees (itself included); None sees all.
        qkv_bias: Whether q, k and v add a bias.
        o_bias: Whether the attention's output projection adds a bias.
        mlp_bias: Whether gate, up and down add a bias.
        tie_word_embeddings: Whether the head is the embedding.
        notes: What the file overruled in the config, for people to read.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def context_length(self) -> int:
        """Tokens that the positions reach: the trained context, stretched if rope says so."""
        rope = self.rope
        if rope.type == "yarn" and rope.original_max_position_embeddings:
            stretched = int(rope.original_max_position_embeddings * rope.factor)
        elif rope.type in ("linear", "dynamic"):
            stretched = int(self.max_position_embeddings * rope.factor)
        else:
            stretched = 0
        return max(self.max_position_embeddings, stretched)
