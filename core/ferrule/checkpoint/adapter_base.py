"""Finds the base model of an adapter that is served or merged by itself."""

from __future__ import annotations

import re
from pathlib import Path

from ferrule.checkpoint.adapter_files import CONFIG, small_folder
from ferrule.checkpoint.gguf import read_gguf
from ferrule.checkpoint.location import HubRepo, find_location
from ferrule.checkpoint.open import Progress
from ferrule.checkpoint.stored_file import list_directory, read_json_object
from ferrule.errors import CheckpointError

_HINT = (
    "Name the base yourself: `ferrule serve BASE --enable-lora --lora-paths NAME={location}`, or "
    "`ferrule inspect {location} --base BASE`."
)
_WEIGHTS = frozenset(("adapter_model.safetensors", "lora.safetensors"))
# bitsandbytes copies, on which QLoRA trains; the original has the same weights unquantised.
_BITSANDBYTES = re.compile(r"(-unsloth)?-bnb-4bit$")


def is_adapter(location: str, progress: Progress | None = None) -> bool:
    """Whether a location holds an adapter and no model of its own (case C10).

    Args:
        location: As a model argument; small files of a Hub repository are downloaded.
        progress: Told of downloads.
    """
    found = find_location(location)
    if isinstance(found, Path) and found.is_file():
        kind = read_gguf(found).metadata.get("general.type") if found.suffix == ".gguf" else None
        return kind == "adapter"
    folder = small_folder(location, progress)
    names = set(list_directory(folder)) if folder is not None else set[str]()
    if not isinstance(found, Path):
        # Only small files have been downloaded; a model would have its config among them.
        return CONFIG in names and "config.json" not in names
    weights = {name for name in names if name.endswith((".safetensors", ".gguf"))}
    return not weights - _WEIGHTS and bool(names & {CONFIG, "lora.safetensors"})


def find_base(location: str, progress: Progress | None = None) -> str:
    """The base model's location, from ``base_model_name_or_path``.

    Tried in turn: the path as it stands, from here and from the adapter's directory; a directory of
    the same name beside the adapter; the Hub.

    Args:
        location: Of an adapter.
        progress: Told of downloads.

    Returns:
        What a model argument takes.

    Raises:
        CheckpointError: The adapter names no base, or a path that does not exist here.
    """
    folder = small_folder(location, progress)
    is_peft = folder is not None and (folder / CONFIG).is_file()
    values = read_json_object(folder / CONFIG) if folder is not None and is_peft else {}
    named = values.get("base_model_name_or_path")
    if folder is None or not isinstance(named, str) or not named:
        raise CheckpointError(
            f"The adapter {location} does not name its base model.",
            hint=_HINT.format(location=location),
        )
    last = named.rstrip("/").rpartition("/")[2]
    for path in (Path(named), folder / named, folder.parent / last):
        if path.is_dir() and path.resolve() != folder.resolve():
            return str(path)
    return _on_hub(location, named, values.get("revision"))


def _on_hub(location: str, named: str, revision: object) -> str:
    plain = _BITSANDBYTES.sub("", named)
    try:
        found = find_location(plain)
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter {location} was trained on {named}, which is not here.",
            hint=_HINT.format(location=location),
        ) from error
    is_commit = plain == named and isinstance(revision, str) and revision
    return f"{plain}@{revision}" if isinstance(found, HubRepo) and is_commit else plain
