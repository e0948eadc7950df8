"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Architecture, Checkpoint, ModelConfig, hookimpl
from ferrule.hf_config import decoder_config, is_family
from ferrule.layers import Decoder


def windows(config: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """The same window in all layers."""
    return (config.get("sliding_window"),) * num_layers


def configure(checkpoint: Checkpoint) -> ModelConfig:
    """Reads a MistralConfig; a config that leaves the window out means 4096, null means none."""
    defaults = {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
    }
    if "sliding_window" not in checkpoint.config:
        defaults["sliding_window"] = 4096
    return decoder_config(checkpoint, defaults=defaults, known={"sliding_window"}, windows=windows)


mistral = Architecture(
    name="mistral",
    matches=is_family("mistral", "MistralForCausalLM"),
    configure=configure,
    build=Decoder,
)


@hookimpl
def architectures() -> list[Architecture]:
    """The one architecture of this plugin."""
    return [mistral]
