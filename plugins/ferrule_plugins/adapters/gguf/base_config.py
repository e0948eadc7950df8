"""A GGUF's weights under another model's config.json: that config counts, and must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferrule.errors import ConfigError

Config = Mapping[str, Any]

_NUMBERS = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "sliding_window",
)
_LLAMA3_KEYS = (
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
)
# Families that llama.cpp stores under one name.
_SAME = {"llama": ("llama", "mistral"), "mistral": ("llama", "mistral")}


def merged(own: Config, base: Config, location: str) -> Config:
    """The base model's config, filled up with the file's numbers.

    Args:
        own: As the GGUF's metadata says it, in Hugging Face's keys.
        base: config.json of the model that the weights are served under.
        location: Of the weights, for messages.

    Raises:
        ConfigError: They contradict each other; all contradictions at once.
    """
    differences = [*_differences(own, base), *_rope_differences(own, base)]
    if differences:
        listed = "\n".join(f"- {difference}" for difference in differences)
        raise ConfigError(
            f"The GGUF weights of {location} are not those of the model's config:\n{listed}",
            hint="Serve the GGUF file by itself, or under the config of its own base model.",
        )
    fill = {key: value for key, value in own.items() if not key.startswith("rope_")}
    if not _rope(base):
        fill |= {key: value for key, value in own.items() if key.startswith("rope_")}
    elif "rope_theta" not in _rope(base):
        fill["rope_theta"] = own["rope_theta"]
    # A null counts where the file is silent: Mistral's means "no window", leaving out means one.
    stated = {key: value for key, value in base.items() if value is not None or key not in fill}
    return {**fill, **stated}


def _differences(own: Config, base: Config) -> Iterator[str]:
    kind, base_kind = own["model_type"], base.get("model_type")
    if base_kind is not None and base_kind not in _SAME.get(kind, (kind,)):
        yield _difference("model_type", base_kind, kind)
    for key in _NUMBERS:
        said, found = base.get(key), own.get(key)
        if said is not None and found is not None and not isclose(said, found, rel_tol=1e-6):
            yield _difference(key, said, found)


def _rope(config: Config) -> dict[str, Any]:
    """Every rotary setting of a config, from all the places where it may stand."""
    settings = dict(config.get("rope_parameters") or {}) | dict(config.get("rope_scaling") or {})
    if config.get("rope_theta") is not None:
        settings.setdefault("rope_theta", config["rope_theta"])
    return settings


def _rope_differences(own: Config, base: Config) -> Iterator[str]:
    file, model = _rope(own), _rope(base)
    kinds = [str(each.get("rope_type") or each.get("type") or "default") for each in (file, model)]
    for key in ("rope_theta", "factor"):
        if key in file and key in model and not isclose(file[key], model[key], rel_tol=1e-6):
            yield _difference(f"rope's {key}", model[key], file[key])
    # A file without scaling may be stretched by the config; one with its own may not be changed.
    if model and kinds[0] not in ("default", kinds[1]):
        yield _difference("rope's type", kinds[1], kinds[0])
    if model and (factors := own.get("rope_freq_factors")) is not None:
        is_llama3 = kinds[1] == "llama3" and model.keys() >= set(_LLAMA3_KEYS)
        expected = _llama3_factors(model, len(factors)) if is_llama3 else None
        if expected is None or not np.allclose(expected, factors, rtol=1e-4):
            yield "rope_freqs.weight in the file is not the scaling of the config, " + kinds[1]


def _llama3_factors(rope: Config, num: int) -> NDArray[np.float64]:
    """What Llama 3.1's scaling divides each frequency by: 1, the factor, or a blend between."""
    factor, context, low, high = (rope[key] for key in _LLAMA3_KEYS)
    wavelengths = 2 * pi * rope.get("rope_theta", 10000.0) ** (np.arange(num) / num)
    kept = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return 1 / (kept + (1 - kept) / factor)


def _difference(key: str, said: object, found: object) -> str:
    return f"{key} is {said} in the model's config and {found} in the GGUF file"
