"""Opens a stored model: finds its files, reads their headers, and puts them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.checkpoint.encoding import check_encoding, encoding_format
from ferrule.checkpoint.gguf_config import (
    gguf_config,
    gguf_generation_config,
    refuse_other_kinds,
)
from ferrule.checkpoint.gguf_parts import part_names, read_gguf_parts
from ferrule.checkpoint.location import HubFile, HubRepo, find_location, find_weight_path, near_path
from ferrule.checkpoint.refused_weights import PICKLE_SUFFIXES, refused_pickle
from ferrule.checkpoint.safetensors import merge, read_safetensors, read_sharded
from ferrule.checkpoint.small_files import (
    find_small_files,
    read_config,
    read_generation_config,
    read_optional_config,
)
from ferrule.checkpoint.stored_file import list_directory
from ferrule.checkpoint.weight_files import Wanted, WeightFiles, choose_weight_files
from ferrule.errors import CheckpointError

Progress = Callable[[str, float | None, str], None]
"""Called with a stage, how much of it is done (0 to 1, or None), and what is being done."""


def open_checkpoint(
    location: str,
    *,
    weight_path: str | None = None,
    quantization_encoding: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Opens a stored model; reads headers and small files only, and never runs code of it.

    Args:
        location: A directory, a ``.gguf`` file, or ``org/name[@revision][:Q4_K_M]`` on the Hub,
            which is downloaded unless the cache has it.
        weight_path: Other weights under the location's config and tokenizer: a file or directory
            here, a file of the location, or ``org/repo/file`` on the Hub. With GGUF weights the
            config stays the GGUF's own, and the location's is its ``base_config``.
        quantization_encoding: The format that the weights are expected to be in, such as
            ``q4_k_m``, ``q8_0`` or ``bfloat16``.
        progress: Told of downloads.

    Returns:
        The checkpoint, every header of it checked.

    Raises:
        CheckpointError: Something is missing, truncated, corrupt, refused, or not in the expected
            format; the message says what to do.
        OptionError: There is no encoding of that name.
    """
    if quantization_encoding is not None:
        encoding_format(quantization_encoding)
    found = find_location(location)
    if weight_path is None:
        wanted = _wanted(found, quantization_encoding)
        folder, weights = _own_weights(location, found, wanted, progress)
    else:
        folder, weights = _other_weights(location, found, weight_path, progress)
    checkpoint = _put_together(location, folder, weights)
    if quantization_encoding is not None:
        check_encoding(checkpoint, quantization_encoding)
    return checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    where: str
    folder: Path
    files: WeightFiles


def _wanted(found: Path | HubRepo, quantization_encoding: str | None) -> Wanted | None:
    if isinstance(found, HubRepo) and found.variant is not None:
        return Wanted(name=found.variant, is_gguf=True)
    if quantization_encoding is not None:
        return Wanted(name=quantization_encoding, is_gguf=False)
    return None


def _own_weights(
    location: str, found: Path | HubRepo, wanted: Wanted | None, progress: Progress | None
) -> tuple[Path | None, _Weights]:
    if isinstance(found, HubRepo):
        folder = _download(location, found, progress, with_weights=True, wanted=wanted)
    elif found.is_file():
        if found.suffix != ".gguf":
            raise _not_a_checkpoint(location, found)
        return None, _file_weights(location, found)
    else:
        folder = found
    return folder, _folder_weights(location, folder, wanted)


def _other_weights(
    location: str, found: Path | HubRepo, weight_path: str, progress: Progress | None
) -> tuple[Path, _Weights]:
    if isinstance(found, Path) and not found.is_dir():
        raise CheckpointError(
            f"{location} is a file, so it has no config and tokenizer for --weight-path to use.",
            hint="Give the directory or Hub repository of the model that was fine-tuned.",
        )
    weights = find_weight_path(weight_path, found)
    if isinstance(found, HubRepo):
        found = _download(location, found, progress, with_weights=False)
    if isinstance(weights, HubFile):
        weights = _download_file(weight_path, weights, progress)
    if weights.is_dir():
        return found, _folder_weights(weight_path, weights)
    return found, _file_weights(weight_path, weights)


def _download(
    location: str,
    repo: HubRepo,
    progress: Progress | None,
    *,
    with_weights: bool,
    wanted: Wanted | None = None,
) -> Path:
    # The Hub's client costs a third of a second to import, and local checkpoints do not need it.
    from ferrule.checkpoint.hub import Hub

    try:
        hub = Hub.from_environment(progress)
        return hub.fetch_checkpoint(repo, with_weights=with_weights, wanted=wanted)
    except CheckpointError as error:
        if near := near_path(location):
            raise CheckpointError(error.message, hint=f"{error.hint} {near}") from error
        raise


def _download_file(weight_path: str, file: HubFile, progress: Progress | None) -> Path:
    from ferrule.checkpoint.hub import Hub

    _check_weight_file(weight_path, file.name)
    names = part_names(file.name)
    paths = Hub.from_environment(progress).fetch_files(file.repo, names)
    return paths[names.index(file.name)]


def _folder_weights(where: str, folder: Path, wanted: Wanted | None = None) -> _Weights:
    files = choose_weight_files(where, folder, list_directory(folder), wanted)
    return _Weights(where=where, folder=folder, files=files)


def _file_weights(where: str, file: Path) -> _Weights:
    _check_weight_file(where, file.name)
    kind = "gguf" if file.suffix == ".gguf" else "safetensors"
    files = WeightFiles(kind=kind, names=(file.name,))
    return _Weights(where=where, folder=file.parent, files=files)


def _check_weight_file(where: str, name: str) -> None:
    if name.endswith(PICKLE_SUFFIXES):
        folder, _, file = where.rpartition("/")
        raise refused_pickle(folder or ".", [file], is_model=False)
    if not name.endswith((".gguf", ".safetensors")):
        raise CheckpointError(
            f"{where} is no weight file: a name ending in .safetensors or .gguf is expected."
        )


def _not_a_checkpoint(location: str, file: Path) -> CheckpointError:
    if file.name.endswith(PICKLE_SUFFIXES):
        is_model = (file.parent / "config.json").exists()
        return refused_pickle(str(file.parent), [file.name], is_model=is_model)
    return CheckpointError(
        f"{location} is a single file, and only a .gguf file is a model by itself.",
        hint=f"Give its directory: `ferrule serve {file.parent}`, or serve it under another"
        f" model's config: `ferrule serve BASE --weight-path {location}`.",
    )


def _put_together(location: str, folder: Path | None, weights: _Weights) -> Checkpoint:
    if weights.files.kind == "gguf":
        return _gguf(location, folder, weights)
    assert folder is not None
    config = read_config(location, folder)
    if weights.files.index is not None:
        tensors = read_sharded(weights.folder / weights.files.index)
    else:
        names = weights.files.names
        tensors = merge(read_safetensors(weights.folder / name) for name in names)
    return Checkpoint(
        location=location,
        kind="safetensors",
        config=config,
        tensors=tensors,
        generation_config=read_generation_config(folder),
        files=find_small_files(folder),
    )


def _gguf(location: str, folder: Path | None, weights: _Weights) -> Checkpoint:
    file = weights.folder / weights.files.names[0]
    header = read_gguf_parts(file)
    refuse_other_kinds(file, header.metadata)
    config = gguf_config(header.metadata)
    generation_config = gguf_generation_config(file, header.metadata)
    base_config = read_optional_config(folder) if folder else None
    return Checkpoint(
        location=location,
        kind="gguf",
        config=config if base_config is None else {**config, "base_config": base_config},
        tensors=header.tensors,
        generation_config=(read_generation_config(folder) if folder else {}) or generation_config,
        files=find_small_files(folder) if folder else {},
        metadata=header.metadata,
    )
