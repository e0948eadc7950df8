"""What a checkpoint's generation_config.json says about requests that say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ferrule.errors import ConfigError, RequestError
from ferrule.frontend.validation import check_sampling
from ferrule.plan import SamplingParams

_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

# Keys of transformers' GenerationConfig that change which tokens are chosen and that no
# SamplingParams can express, each with the values that leave the choice alone.
_UNUSED: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": (None, []),
    "begin_suppress_tokens": (None, []),
    "diversity_penalty": (None, 0, 0.0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "epsilon_cutoff": (None, 0, 0.0),
    "eta_cutoff": (None, 0, 0.0),
    "exponential_decay_length_penalty": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "sequence_bias": (None, {}, []),
    "suppress_tokens": (None, []),
    "typical_p": (None, 1, 1.0),
}


def default_sampling(generation_config: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters that hold where a request says nothing.

    ``do_sample: false`` means greedy. An absent ``do_sample`` does not, although transformers
    reads it so: published files with a temperature leave it out.

    Raises:
        ConfigError: A value is of the wrong type or outside the range that requests may use.
    """
    values = {key: generation_config.get(key) for key in _SAMPLING_KEYS}
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"generation_config.json: {key} is {value!r}, not a number")
    if "top_k" in given:
        # transformers turns the filter off with 0, other servers with -1.
        given["top_k"] = max(0, int(given["top_k"]))
    if generation_config.get("do_sample") is False:
        given["temperature"] = 0.0
    sampling = SamplingParams(**given)
    try:
        check_sampling(sampling, vocab_size=0)
    except RequestError as error:
        raise ConfigError(f"generation_config.json: {error.message}") from error
    return sampling


def default_max_tokens(generation_config: Mapping[str, Any]) -> int | None:
    """``max_new_tokens``, or None where the file does not say.

    Raises:
        ConfigError: It is not a positive integer.
    """
    value = generation_config.get("max_new_tokens")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(
            f"generation_config.json: max_new_tokens is {value!r}, not a positive integer"
        )
    return value


def eos_ids(
    generation_config: Mapping[str, Any], config: Mapping[str, Any], tokenizer_eos: int | None
) -> tuple[int, ...]:
    """Every token id that ends a sequence, whichever file names it; sorted.

    Raises:
        ConfigError: An ``eos_token_id`` is neither an integer nor a list of them.
    """
    found = {
        *_ids("generation_config.json", generation_config.get("eos_token_id")),
        *_ids("config.json", config.get("eos_token_id")),
    }
    if tokenizer_eos is not None:
        found.add(tokenizer_eos)
    return tuple(sorted(found))


def unused_keys(generation_config: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that ask for something that is not done: beam search, banned words ..."""
    return tuple(
        key
        for key, harmless in _UNUSED.items()
        if key in generation_config and generation_config[key] not in harmless
    )


def _ids(source: str, value: object) -> Iterable[int]:
    ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for item in ids:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise ConfigError(f"{source}: eos_token_id holds {item!r}, which is not a token id")
    return ids
