"""A GGUF's metadata as Hugging Face's config keys; a key that may count is never dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Checkpoint
from ferrule.errors import ConfigError
from ferrule_plugins.adapters.gguf.base_config import merged
from ferrule_plugins.adapters.gguf.metadata import Metadata
from ferrule_plugins.adapters.gguf.rope import rope_config

# Without an effect on what a Llama-like decoder computes.
_HARMLESS = frozenset(
    ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "attention.layer_norm_epsilon")
)


def huggingface_config(architecture: str, checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Translates the metadata; under another model's config.json, compares with it.

    Args:
        architecture: The ``general.architecture`` that is expected.
        checkpoint: A GGUF file, its tensors under their stored names.

    Raises:
        ConfigError: A key is missing, differs by layer, is not understood, or contradicts the
            config that the weights are to be served under.
    """
    metadata = Metadata(architecture, checkpoint)
    config = _decoder(metadata, checkpoint) | rope_config(metadata, checkpoint)
    metadata.refuse_unread(_HARMLESS)
    base = checkpoint.config.get("base_config")
    return config if base is None else merged(config, base, checkpoint.location)


def _decoder(metadata: Metadata, checkpoint: Checkpoint) -> dict[str, Any]:
    heads = metadata.integer("attention.head_count")
    hidden = metadata.integer("embedding_length")
    config: dict[str, Any] = {
        "model_type": metadata.architecture,
        "hidden_size": hidden,
        "num_hidden_layers": metadata.integer("block_count"),
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer("attention.head_count_kv", heads),
        "head_dim": metadata.integer("attention.key_length", hidden // heads),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": metadata.integer("context_length"),
        "tie_word_embeddings": "output.weight" not in checkpoint.tensors,
    }
    if embedding := checkpoint.tensors.get("token_embd.weight"):
        config["vocab_size"] = embedding.shape[0]
    metadata.refuse_unless("attention.value_length", config["head_dim"], "the key length")
    metadata.refuse_unless("attention.causal", True, "a causal decoder")
    return config | _window(metadata) | _token_ids(checkpoint)


def _window(metadata: Metadata) -> dict[str, Any]:
    window = metadata.integer("attention.sliding_window", 0)
    if not window:
        return {}
    if metadata.architecture != "llama":
        raise ConfigError(
            f"{metadata.key('attention.sliding_window')} is {window}, and the file does not say "
            "which layers have the window.",
            hint="Serve the file as --weight-path under its base model's config.json.",
        )
    # To Hugging Face, a Llama with a window in every layer is a Mistral.
    return {"model_type": "mistral", "sliding_window": window}


def _token_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    ids = {
        name: checkpoint.config.get(f"tokenizer.ggml.{name}")
        for name in ("bos_token_id", "eos_token_id")
    }
    return {name: value for name, value in ids.items() if value is not None}
