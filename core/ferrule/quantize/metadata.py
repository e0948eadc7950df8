"""A model's numbers as GGUF metadata, by the keys of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferrule.errors import ConfigError
from ferrule.layers.rope import inverse_frequencies
from ferrule.model_config import ModelConfig, RopeConfig

ROPE_FREQS = "rope_freqs.weight"
"""The tensor that divides each frequency."""

Values = dict[str, int | float | str]


def model_metadata(architecture: str, config: ModelConfig) -> Values:
    """The keys ``{architecture}.*``.

    Raises:
        ConfigError: The rotation cannot be said in them.
    """
    values: Values = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.rope.rotary_dim,
        "rope.freq_base": float(config.rope.theta),
    }
    if (window := config.windows[0]) is not None:
        values["attention.sliding_window"] = window
    values |= _scaling(config.rope, config.head_dim)
    return {f"{architecture}.{key}": value for key, value in values.items()}


def frequency_factors(rope: RopeConfig) -> NDArray[np.float32] | None:
    """What divides each frequency: Llama 3's scaling, or a GGUF's own factors; None: nothing."""
    if rope.type != "llama3" and rope.freq_factors is None:
        return None
    plain = RopeConfig(rotary_dim=rope.rotary_dim, theta=rope.theta)
    factors = inverse_frequencies(plain) / inverse_frequencies(rope)
    return factors.float().numpy()


def _scaling(rope: RopeConfig, head_dim: int) -> Mapping[str, Any]:
    if rope.rotary_dim != head_dim:
        raise _refused(f"rotates {rope.rotary_dim} of {head_dim} channels of a head")
    match rope.type:
        case "default" | "llama3":
            return {}
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
        case "yarn":
            return _yarn(rope)
        case "dynamic":
            raise _refused("stretches its positions by rope_type 'dynamic'")


def _yarn(rope: RopeConfig) -> Mapping[str, Any]:
    if rope.mscale is not None or rope.mscale_all_dim is not None or not rope.truncate:
        raise _refused("has YaRN settings (mscale, truncate) of another kind than llama.cpp's")
    original = rope.original_max_position_embeddings
    assert original is not None, "the reader of configs sets it for yarn"
    values: Values = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": original,
        "rope.scaling.yarn_beta_fast": rope.beta_fast,
        "rope.scaling.yarn_beta_slow": rope.beta_slow,
    }
    if rope.attention_factor is not None:
        # ggml multiplies by YaRN's own magnitude (rope_yarn); Hugging Face's key replaces that.
        own = 0.1 * log(rope.factor) + 1.0
        values["rope.scaling.attn_factor"] = rope.attention_factor / own
    return values


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"The model {what}, which GGUF metadata cannot say.", hint="Serve the checkpoint as it is."
    )
