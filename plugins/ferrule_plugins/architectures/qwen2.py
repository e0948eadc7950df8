"""Qwen2 and Qwen2.5: Llama with q/k/v biases and, in some, windows in the upper layers."""

from __future__ import annotations

from ferrule import Architecture, Checkpoint, ModelConfig, hookimpl
from ferrule.hf_config import WINDOW_KEYS, decoder_config, is_family, windows_by_layer
from ferrule.layers import Decoder


def configure(checkpoint: Checkpoint) -> ModelConfig:
    """Reads a Qwen2Config."""
    defaults = {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    }
    return decoder_config(
        checkpoint,
        defaults=defaults,
        known=WINDOW_KEYS,
        windows=windows_by_layer,
        qkv_bias=True,
    )


qwen2 = Architecture(
    name="qwen2",
    matches=is_family("qwen2", "Qwen2ForCausalLM"),
    configure=configure,
    build=Decoder,
)


@hookimpl
def architectures() -> list[Architecture]:
    """The one architecture of this plugin."""
    return [qwen2]
