"""Compiled kernels as one file, for machines of the same kind."""

from __future__ import annotations

import io
import platform
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import msgspec

from ferrule import __version__
from ferrule.cli.kernel_cache import UNFINISHED, cached_files
from ferrule.errors import OptionError

LABEL = "ferrule-kernels.json"
_NONE = "none"
# A label is a few hundred bytes, and what is no label must not fill the memory.
_MAX_LABEL_BYTES = 65_536


class MadeFor(msgspec.Struct, frozen=True, kw_only=True):
    """What compiled kernels hold for; written into an artefact as its first member.

    Attributes:
        ferrule: Our version, whose sources they come from.
        python: Major and minor version: they are launched by compiled modules.
        torch: Version of torch.
        triton: Version of Triton, or "none".
        gpu: The device's name, or "none".
    """

    ferrule: str
    python: str
    torch: str
    triton: str
    gpu: str


class _Group(msgspec.Struct):
    """Triton's list of the files of one kernel, with their full paths."""

    child_paths: dict[str, str]


def made_here(device: str) -> MadeFor:
    """What holds for this machine.

    Args:
        device: Where the engine runs, such as "cuda:0".
    """
    import torch

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = _NONE
    is_gpu = device.startswith("cuda")
    return MadeFor(
        ferrule=__version__,
        python=".".join(platform.python_version_tuple()[:2]),
        torch=str(torch.__version__),
        triton=triton,
        gpu=torch.cuda.get_device_name(device) if is_gpu else _NONE,
    )


def pack(folders: Mapping[str, Path], made_for: MadeFor, file: Path) -> None:
    """Writes an artefact.

    Args:
        folders: What to pack, by the name that it has within.
        made_for: Its label.
        file: Where it goes; it gets there whole or not at all.

    Raises:
        OptionError: It cannot be written.
    """
    unfinished = file.with_name(f"{file.name}.part")
    try:
        with tarfile.open(unfinished, "w:gz") as archive:
            _add_label(archive, made_for)
            for name, folder in folders.items():
                _add_folder(archive, name, folder)
        unfinished.replace(file)
    except OSError as error:
        raise OptionError(f"--out {file} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def unpack(file: Path, folders: Mapping[str, Path], here: MadeFor) -> None:
    """Puts an artefact's kernels where the engine looks for them.

    Args:
        file: From ``pack``.
        folders: Where each part of it goes.
        here: What its label must be.

    Raises:
        OptionError: It is no artefact, it is for other machines, or it cannot be read or written.
    """
    try:
        with tarfile.open(file, "r:gz") as archive:
            _check_label(_read_label(archive, file), here, file)
            _check_members(archive, folders, file)
            _extract(archive, folders)
    except (tarfile.TarError, EOFError, zlib.error, msgspec.MsgspecError) as error:
        raise _not_ours(file, str(error)) from error
    except OSError as error:
        raise OptionError(f"--from {file}: {error.strerror or error}") from error


def _add_label(archive: tarfile.TarFile, made_for: MadeFor) -> None:
    text = msgspec.json.format(msgspec.json.encode(made_for), indent=2)
    info = tarfile.TarInfo(LABEL)
    info.size = len(text)
    archive.addfile(info, io.BytesIO(text))


def _add_folder(archive: tarfile.TarFile, name: str, folder: Path) -> None:
    for path in cached_files(folder):
        inside = PurePosixPath(name, path.relative_to(folder).as_posix())
        try:
            archive.add(path, str(inside), recursive=False, filter=_without_owner)
        except FileNotFoundError:
            # An engine that runs beside us has tidied it away.
            continue


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _read_label(archive: tarfile.TarFile, file: Path) -> MadeFor:
    first = archive.next()
    if first is None or first.name != LABEL or not first.isfile() or first.size > _MAX_LABEL_BYTES:
        raise _not_ours(file, f"its first member is not {LABEL}")
    content = archive.extractfile(first)
    assert content is not None, "a file has content"
    return msgspec.json.decode(content.read(), type=MadeFor)


def _check_label(made_for: MadeFor, here: MadeFor, file: Path) -> None:
    found, expected = msgspec.structs.asdict(made_for), msgspec.structs.asdict(here)
    differences = [
        f"  {name}: {found[name]} in the file, {expected[name]} here"
        for name in found
        if found[name] != expected[name]
    ]
    if differences:
        raise OptionError(
            "\n".join((f"--from {file} does not fit this machine:", *differences)),
            hint="Make one on a machine like this: ferrule warm-cache MODEL --out FILE.tar.gz",
        )


def _check_members(archive: tarfile.TarFile, folders: Mapping[str, Path], file: Path) -> None:
    for member in archive.getmembers():
        if member.name == LABEL:
            continue
        first, *rest = PurePosixPath(member.name).parts or ("",)
        if first not in folders or not rest or ".." in rest or not member.isfile():
            raise _not_ours(file, f"it holds {member.name!r}; nothing was unpacked")


def _extract(archive: tarfile.TarFile, folders: Mapping[str, Path]) -> None:
    """Unpacks within a folder, then moves file by file: an engine sees only whole files."""
    first = next(iter(folders.values()))
    first.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=first, prefix=UNFINISHED) as unpacked:
        for member in archive.getmembers():
            if member.name != LABEL:
                _write(archive, member, Path(unpacked, member.name))
        for name, folder in folders.items():
            _move(Path(unpacked, name), folder)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """A member's content alone: of its owner, its rights and its links nothing is taken over."""
    content = archive.extractfile(member)
    assert content is not None, "only files passed the check"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(content, target)


def _move(source: Path, folder: Path) -> None:
    # Lists of files come last, when the files are there.
    for path in sorted(cached_files(source), key=_is_group):
        target = folder / path.relative_to(source)
        if _is_group(path):
            _relocate(path, target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


def _is_group(path: Path) -> bool:
    return path.name.startswith("__grp__") and path.suffix == ".json"


def _relocate(group: Path, folder: Path) -> None:
    """Without this Triton would look for the files where they were compiled, and find none."""
    names = msgspec.json.decode(group.read_bytes(), type=_Group).child_paths
    moved = _Group(child_paths={name: str(folder / name) for name in names})
    group.write_bytes(msgspec.json.encode(moved))


def _not_ours(file: Path, why: str) -> OptionError:
    return OptionError(
        f"--from {file} is no file of kernels: {why}",
        hint="ferrule warm-cache MODEL --out FILE.tar.gz makes one.",
    )
