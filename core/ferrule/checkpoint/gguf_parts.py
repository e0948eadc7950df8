"""A model split over several GGUF files, as llama.cpp's gguf-split writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferrule.checkpoint.gguf import GgufHeader, read_gguf
from ferrule.checkpoint.safetensors import merge
from ferrule.errors import CheckpointError

# gguf-split numbers parts from 1 in file names and from 0 in split.no (llama_split_path).
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def part_names(name: str) -> list[str]:
    """The names of all parts of the model of which ``name`` is one; just it, if it is no part."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    stem, count = match["stem"], match["count"]
    return [f"{stem}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def read_gguf_parts(file: Path) -> GgufHeader:
    """Reads a GGUF file and, where it is one of several parts, the others beside it.

    Returns:
        The metadata of the first part (the others have only their number) and all tensors.

    Raises:
        CheckpointError: A part is missing, does not belong to the others, or is broken.
    """
    header = read_gguf(file)
    count = header.metadata.get("split.count", 0)
    if type(count) is not int or count < 2:
        return header
    names = part_names(file.name)
    if len(names) != count:
        raise CheckpointError(
            f"{file} is part of a model split over {count} files, but its name does not end in"
            f" -0000N-of-{count:05d}.gguf, so the others cannot be found.",
            hint="Give the files the names back that they were published under.",
        )
    _check_present(file, names)
    parts = [header if name == file.name else read_gguf(file.with_name(name)) for name in names]
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        _check_part(file.with_name(name), part.metadata, number, count)
    tensors = merge(part.tensors for part in parts)
    expected = parts[0].metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != expected:
        raise CheckpointError(
            f"The {count} parts of {file} hold {len(tensors)} tensors; {expected} are expected.",
            hint="The parts are of different models: download all of them again.",
        )
    return GgufHeader(metadata=parts[0].metadata, tensors=tensors)


def _check_present(file: Path, names: list[str]) -> None:
    missing = [name for name in names if not file.with_name(name).exists()]
    if missing:
        raise CheckpointError(
            f"{file} is one of {len(names)} parts of a model, and beside it are missing:"
            f" {', '.join(missing)}.",
            hint="Download or copy all parts into one directory.",
        )


def _check_part(file: Path, metadata: Mapping[str, Any], number: int, count: int) -> None:
    found = (metadata.get("split.no"), metadata.get("split.count"))
    if found != (number, count):
        raise CheckpointError(
            f"{file} says that it is part {found[0]} of {found[1]} (counted from 0);"
            f" {number} of {count} is expected.",
            hint="Files were renamed or mixed up: download all parts again.",
        )
