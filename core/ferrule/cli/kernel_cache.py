"""Where kernels that were compiled for the engine are kept between starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ferrule.errors import OptionError

_VARIABLES = {"triton": "TRITON_CACHE_DIR", "inductor": "TORCHINDUCTOR_CACHE_DIR"}
UNFINISHED = "tmp."
"""Triton writes into directories of such names, and moves a file to its place when it is whole."""


def cache_folders(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The folders of the engine process, by the compiler that fills them.

    Triton's own default is in the user's home, and that of torch.compile is in /tmp, which does
    not outlive the machine's next start. Here both are in one folder.

    Args:
        environ: The environment; a folder that it sets is left as it is.

    Raises:
        OptionError: It names no folder, and the user has no home.
    """
    return {
        name: Path(environ.get(variable) or _kernels(environ) / name).absolute()
        for name, variable in _VARIABLES.items()
    }


def cache_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that tell the engine process of its folders; none, if there is no place for them.

    Args:
        environ: Our own environment.
    """
    try:
        folders = cache_folders(environ)
    except OptionError:
        # A model on a CPU runs without them.
        return {}
    return {_VARIABLES[name]: str(folder) for name, folder in folders.items()}


def cached_files(folder: Path) -> Iterator[Path]:
    """Every finished file in a folder, which need not exist."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_finished = not any(part.startswith(UNFINISHED) for part in parts)
        if is_finished and path.is_file() and not path.is_symlink():
            yield path


def cached_bytes(folders: Mapping[str, Path]) -> int:
    """How much is kept."""
    # Beside a running engine a file may be replaced while we look.
    return sum(_size(file) for folder in folders.values() for file in cached_files(folder))


def _kernels(environ: Mapping[str, str]) -> Path:
    given = environ.get("FERRULE_CACHE_DIR") or environ.get("XDG_CACHE_HOME")
    try:
        caches = Path(given) if given else Path.home() / ".cache"
    except RuntimeError as error:
        raise OptionError(
            "there is no place for compiled kernels: this user has no home directory",
            hint="Set FERRULE_CACHE_DIR to a directory.",
        ) from error
    return caches / "ferrule" / "kernels"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
