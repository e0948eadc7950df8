"""Llama, and whatever is shaped like it."""

from __future__ import annotations

from ferrule import Architecture, Checkpoint, ModelConfig, hookimpl
from ferrule.hf_config import decoder_config, is_family
from ferrule.layers import Decoder


def configure(checkpoint: Checkpoint) -> ModelConfig:
    """Reads a LlamaConfig."""
    return decoder_config(
        checkpoint, defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
    )


llama = Architecture(
    name="llama",
    matches=is_family("llama", "LlamaForCausalLM"),
    configure=configure,
    build=Decoder,
)


@hookimpl
def architectures() -> list[Architecture]:
    """The one architecture of this plugin."""
    return [llama]
