"""The small files beside the weights: config, generation defaults, tokenizer, chat template."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ferrule.checkpoint.stored_file import list_directory, read_json_object
from ferrule.errors import CheckpointError

SMALL_FILES = (
    "config.json",
    "params.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "*.model",
)
"""Names, with shell wildcards, of the files that a checkpoint's ``files`` may list."""

TOKENIZERS = ("tokenizer.json", "tekken.json", "*.model")
"""Those of which one is enough to turn text into tokens."""


def find_small_files(folder: Path) -> dict[str, Path]:
    """The small files that a directory has, by name."""
    return {
        name: folder / name
        for name in list_directory(folder)
        if matches_any(name, SMALL_FILES) and (folder / name).is_file()
    }


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file name fits one of the shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_config(where: str, folder: Path) -> dict[str, Any]:
    """Reads config.json, or params.json of Meta's and Mistral's own layout where that is missing.

    Args:
        where: What the user gave, for messages.
        folder: The checkpoint's directory.

    Raises:
        CheckpointError: There is neither, or it is not a JSON object.
    """
    config = read_optional_config(folder)
    if config is None:
        raise CheckpointError(
            f"{where} has weights but no config.json, which says what shape of model they are.",
            hint="Copy config.json from the model that was fine-tuned, or serve these weights under"
            f" it: `ferrule serve BASE --weight-path {where}`.",
        )
    return config


def read_optional_config(folder: Path) -> dict[str, Any] | None:
    """As :func:`read_config`, but None where there is neither file."""
    for name in ("config.json", "params.json"):
        if (folder / name).is_file():
            return read_json_object(folder / name)
    return None


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Reads generation_config.json; empty where there is none.

    Raises:
        CheckpointError: It is not a JSON object.
    """
    file = folder / "generation_config.json"
    return read_json_object(file) if file.is_file() else {}
