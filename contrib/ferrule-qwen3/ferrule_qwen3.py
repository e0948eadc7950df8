"""Qwen3 (dense): Llama with a norm on every head of q and k before they are rotated."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from ferrule import Architecture, Checkpoint, ModelConfig, hookimpl
from ferrule.hf_config import WINDOW_KEYS, decoder_config, is_family, windows_by_layer
from ferrule.layers import (
    Attend,
    AttentionSpec,
    Decoder,
    DecoderLayer,
    Linear,
    RMSNorm,
    Rotation,
    rotate,
)

DEFAULTS = {  # what transformers takes for keys that a config leaves out
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}


class Attention(nn.Module):
    """Llama's attention with ``q_norm`` and ``k_norm``, each of head_dim weights."""

    def __init__(self, config: ModelConfig, window: int | None) -> None:
        super().__init__()
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.spec = AttentionSpec(
            num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, window=window, scale=dim**-0.5
        )
        parts = {"q_proj": heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        self.qkv_proj = Linear(config.hidden_size, parts, bias=config.qkv_bias)
        self.q_norm = RMSNorm(dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(dim, eps=config.rms_norm_eps)
        self.o_proj = Linear(heads * dim, config.hidden_size, bias=config.o_bias)

    def forward(self, hidden: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """``[tokens, hidden_size] -> [tokens, hidden_size]``."""
        heads, kv_heads = self.spec.num_heads, self.spec.num_kv_heads
        qkv = self.qkv_proj(hidden).unflatten(-1, (heads + 2 * kv_heads, self.spec.head_dim))
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=-2)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        return self.o_proj(attend(q, k, v).flatten(-2))


def configure(checkpoint: Checkpoint) -> ModelConfig:
    """Reads a Qwen3Config."""
    return decoder_config(
        checkpoint, defaults=DEFAULTS, known=WINDOW_KEYS, windows=windows_by_layer
    )


def build(config: ModelConfig) -> nn.Module:
    """Llama's decoder around the attention above."""
    return Decoder(config, layer=partial(DecoderLayer, attention=Attention))


qwen3 = Architecture(
    name="qwen3",
    matches=is_family("qwen3", "Qwen3ForCausalLM"),
    configure=configure,
    build=build,
)


@hookimpl
def architectures() -> list[Architecture]:
    """The one architecture of this plugin."""
    return [qwen3]
