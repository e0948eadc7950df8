"""What a GGUF's metadata says in place of config.json and generation_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferrule.errors import CheckpointError

# Arrays that say something of the layers are short; longer ones are data.
_MAX_CONFIG_ARRAY = 1024

# llama.cpp ends generation at each of these (llama_vocab::is_eog): the end of the text, of a turn,
# and of a message.
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

_REFUSED_KINDS: Mapping[str, tuple[str, str]] = {
    "adapter": (
        "a LoRA adapter, not a model",
        "Serve it with its base model: `ferrule inspect FILE --base BASE` shows what it changes.",
    ),
    "mmproj": (
        "the image or audio projector of a multimodal model, not a language model",
        "Serve the model's other GGUF file.",
    ),
    "imatrix": (
        "an importance matrix, which quantising uses, not a model",
        "Serve the model's own GGUF file.",
    ),
}


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata without vocabularies and other long arrays."""
    return {
        key: value
        for key, value in metadata.items()
        if not isinstance(value, list)
        or (len(value) <= _MAX_CONFIG_ARRAY and not key.startswith("tokenizer."))
    }


def gguf_generation_config(file: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What generation_config.json would say: ``bos_token_id``, and every ``eos_token_id``.

    Raises:
        CheckpointError: A token id is not a number.
    """
    ends = [_token_id(file, metadata, key) for key in _END_KEYS]
    distinct = list(dict.fromkeys(end for end in ends if end is not None))
    begin = _token_id(file, metadata, "bos_token_id")
    return ({"eos_token_id": distinct} if distinct else {}) | (
        {} if begin is None else {"bos_token_id": begin}
    )


def refuse_other_kinds(file: Path, metadata: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a GGUF file that holds something else than a language model."""
    kind = metadata.get("general.type")
    if isinstance(kind, str) and kind in _REFUSED_KINDS:
        what, hint = _REFUSED_KINDS[kind]
        raise CheckpointError(f"{file} is {what} (general.type = {kind}).", hint=hint)


def _token_id(file: Path, metadata: Mapping[str, Any], name: str) -> int | None:
    key = f"tokenizer.ggml.{name}"
    value = metadata.get(key)
    if value is not None and type(value) is not int:
        raise CheckpointError(f"{file}: {key} is {value!r}; a token id is expected.")
    return value
