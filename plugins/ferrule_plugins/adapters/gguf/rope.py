"""A GGUF's rotary settings as Hugging Face's config keys."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from ferrule import Checkpoint
from ferrule.errors import ConfigError
from ferrule_plugins.adapters.gguf.metadata import Metadata

_FACTORS = "rope_freqs.weight"


def rope_config(metadata: Metadata, checkpoint: Checkpoint) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling``, ``partial_rotary_factor`` and ``rope_freq_factors``.

    Defaults are llama.cpp's (llama_model::load_hparams, llama_context). Llama 3's scaling has no
    key: the converter writes the divisor of each frequency as a tensor, ``rope_freqs.weight``.

    Raises:
        ConfigError: A kind of scaling is not understood.
    """
    config: dict[str, Any] = {"rope_theta": metadata.number("rope.freq_base", 10000.0)}
    if scaling := _scaling(metadata):
        config["rope_scaling"] = scaling
    if (partial := _partial(metadata)) != 1.0:
        config["partial_rotary_factor"] = partial
    if (factors := _factors(checkpoint)) is not None:
        config["rope_freq_factors"] = factors
    return config


def _scaling(metadata: Metadata) -> dict[str, Any] | None:
    # Without a type llama.cpp scales linearly; a factor of 0 is none, scale_linear an old name.
    kind = metadata.text("rope.scaling.type", "linear")
    old = metadata.number("rope.scale_linear", 0.0)
    factor = metadata.number("rope.scaling.factor", 0.0) or old
    magnitude = metadata.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn":
        return _yarn(metadata, factor or 1.0, magnitude)
    original = metadata.integer("rope.scaling.original_context_length", 0)
    if kind not in ("none", "linear") or magnitude != 1.0:
        raise ConfigError(
            f"{metadata.key('rope.scaling.type')} is {kind!r} with an attn_factor of {magnitude} "
            f"and an original context of {original}; understood are none, linear and yarn.",
            hint="Another kind of scaling needs a weight adapter and an architecture of its own.",
        )
    if kind == "none" or factor in (0.0, 1.0):
        return None
    return {"rope_type": "linear", "factor": factor}


def _yarn(metadata: Metadata, factor: float, magnitude: float) -> dict[str, Any]:
    context = metadata.integer("context_length")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.integer(
            "rope.scaling.original_context_length", context
        ),
        "beta_fast": metadata.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": metadata.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if magnitude != 1.0:
        # ggml multiplies it by YaRN's own magnitude (rope_yarn); Hugging Face's key replaces that.
        scaling["attention_factor"] = magnitude * (0.1 * log(factor) + 1.0)
    return scaling


def _partial(metadata: Metadata) -> float:
    heads = metadata.integer("attention.head_count")
    head_dim = metadata.integer(
        "attention.key_length", metadata.integer("embedding_length") // heads
    )
    return metadata.integer("rope.dimension_count", head_dim) / head_dim


def _factors(checkpoint: Checkpoint) -> list[float] | None:
    info = checkpoint.tensors.get(_FACTORS)
    if info is None:
        return None
    if info.format != "F32":
        raise ConfigError(f"{_FACTORS} is stored as {info.format}; expected F32.")
    factors = checkpoint.read(_FACTORS).view(np.dtype("<f4"))
    return None if (factors == 1.0).all() else [float(factor) for factor in factors]
