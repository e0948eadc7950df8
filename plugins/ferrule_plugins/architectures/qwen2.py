"""Qwen2 and Qwen2.5: Llama with q/k/v biases and, in some, windows in the upper layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Architecture, Checkpoint, FerruleError, ModelConfig, hookimpl
from ferrule.hf_config import decoder_config, is_family
from ferrule.layers import Decoder


def windows(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """By ``layer_types`` if the config has them, else from ``max_window_layers`` upwards."""
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    first = config.get("max_window_layers", 28)
    types = config.get("layer_types") or [
        "full_attention" if i < first else "sliding_attention" for i in range(num_layers)
    ]
    if len(types) != num_layers or set(types) - {"full_attention", "sliding_attention"}:
        raise FerruleError(
            f"layer_types has {len(types)} entries of {sorted(set(types))}; expected "
            f"{num_layers} of full_attention or sliding_attention."
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


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
        known={"sliding_window", "use_sliding_window", "layer_types"},
        windows=windows,
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
