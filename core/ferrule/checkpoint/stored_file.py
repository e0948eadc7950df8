"""Opening one file of a checkpoint, or saying why it cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ferrule.errors import CheckpointError

# The first line of the stand-in that git keeps for a large file (git-lfs, docs/spec.md).
_LFS_POINTER = b"version https://git-lfs"


@contextmanager
def open_stored(file: Path) -> Generator[tuple[BinaryIO, int]]:
    """Opens a file of weights for reading.

    Args:
        file: The file.

    Yields:
        The file at its beginning, and its size in bytes.

    Raises:
        CheckpointError: It does not exist, is empty, cannot be read, or is a Git LFS pointer.
    """
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            _refuse_stand_ins(file, handle, size)
            yield handle, size
    except OSError as error:
        raise _unreadable(file, error) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """Reads a small file that must hold one JSON object.

    Raises:
        CheckpointError: It cannot be read, is not JSON (the message has line and column), or is
            another value than an object.
    """
    try:
        # Some Windows editors put a byte order mark in front; utf-8-sig drops it.
        text = file.read_text(encoding="utf-8-sig")
        value = json.loads(text)
    except OSError as error:
        raise _unreadable(file, error) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{file} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            hint="Correct the file, or copy it again from where it came.",
        ) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or thousands of nested brackets.
        raise CheckpointError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file} holds a JSON {_json_name(value)}; a JSON object ({{...}}) is expected."
        )
    return cast("dict[str, Any]", value)


def list_directory(folder: Path) -> list[str]:
    """The names in a directory, sorted.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from error


def _refuse_stand_ins(file: Path, handle: BinaryIO, size: int) -> None:
    if size == 0:
        raise CheckpointError(
            f"{file} is empty (0 bytes).",
            hint="Its download or copy has failed: fetch the file again.",
        )
    start = handle.read(len(_LFS_POINTER))
    handle.seek(0)
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{file} is a Git LFS pointer of {size} bytes, not the weights themselves.",
            hint="Run `git lfs pull` in the repository, or download the file again.",
        )


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError) and file.is_symlink():
        return CheckpointError(
            f"{file} is a link to a file that no longer exists: {file.readlink()}.",
            hint="Download the checkpoint again.",
        )
    return CheckpointError(f"{file} cannot be read: {error.strerror or error}.")


def _json_name(value: object) -> str:
    match value:
        case list():
            return "array"
        case str():
            return "string"
        case None | bool():
            return json.dumps(value)
        case _:
            return "number"
