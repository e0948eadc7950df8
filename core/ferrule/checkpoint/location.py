"""Where a user's text points: a file or directory here, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ferrule.checkpoint.stored_file import list_directory
from ferrule.errors import CheckpointError

_REPO = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s:]+))?(:(?P<variant>[\w.-]+))?", re.ASCII
)
_FILE_ENDINGS = (".gguf", ".safetensors", ".json", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepo:
    """A model repository on the Hub.

    Attributes:
        name: ``org/name``.
        revision: Branch, tag or commit; None for the default branch.
        variant: Which of the repository's GGUF files is meant, such as ``Q4_K_M``.
    """

    name: str
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a model repository."""

    repo: HubRepo
    name: str


def find_location(location: str) -> Path | HubRepo:
    """Finds what a model argument means.

    What exists here is here; a text of the form ``org/name``, ``org/name@revision`` or
    ``org/name:Q4_K_M`` that does not exist here is on the Hub.

    Raises:
        CheckpointError: It is neither; the message names what is spelled alike.
    """
    path = _path(location)
    if _exists(path):
        return path
    match = None if _looks_local(location) else _REPO.fullmatch(location)
    if match is None:
        raise _no_such_path(location, path)
    return HubRepo(name=match["name"], revision=match["revision"], variant=match["variant"])


def find_weight_path(weight_path: str, location: Path | HubRepo) -> Path | HubFile:
    """Finds what ``--weight-path`` means.

    Tried in turn: a path here; a file in the model's directory; ``org/repo/file`` on the Hub (the
    repository may have ``@revision``); a file of the model's own repository.

    Raises:
        CheckpointError: There is no such file.
    """
    path = _path(weight_path)
    if _exists(path):
        return path
    if isinstance(location, Path) and _exists(location / weight_path):
        return location / weight_path
    org, _, rest = weight_path.partition("/")
    repo, _, file = rest.partition("/")
    if _is_local_spelling(weight_path) or (not file and isinstance(location, Path)):
        raise _no_such_path(weight_path, path)
    if not file:
        assert isinstance(location, HubRepo)
        return HubFile(repo=location, name=weight_path)
    match = _REPO.fullmatch(f"{org}/{repo}")
    if match is None or match["variant"] is not None:
        raise _no_such_path(weight_path, path)
    return HubFile(repo=HubRepo(name=match["name"], revision=match["revision"]), name=file)


def near_path(location: str) -> str:
    """What lies here and is spelled like ``location``, as a question; empty if nothing is."""
    path = _path(location)
    if not _exists(path.parent) or not path.parent.is_dir():
        return ""
    names = list_directory(path.parent)
    near = [str(path.parent / name) for name in get_close_matches(path.name, names, n=3)]
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        # ~name of a user that this machine does not know.
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A name that is too long, or a directory that may not be searched.
        return False


def _looks_local(location: str) -> bool:
    return _is_local_spelling(location) or location.endswith(_FILE_ENDINGS)


def _is_local_spelling(location: str) -> bool:
    return location.startswith((".", "/", "~")) or "\\" in location


def _no_such_path(location: str, path: Path) -> CheckpointError:
    near = near_path(location)
    if not near and not _exists(path.parent):
        near = f"There is no directory {path.parent} either."
    return CheckpointError(
        f"No such file or directory: {location}",
        hint=near or "Give a directory, a .gguf file, or a Hub repository as org/name.",
    )
