"""Where an adapter's files are: a directory or file here, or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ferrule.checkpoint.location import HubFile, HubRepo, find_location, find_weight_path
from ferrule.checkpoint.open import Progress
from ferrule.checkpoint.stored_file import list_directory
from ferrule.errors import CheckpointError

CONFIG = "adapter_config.json"
_PEFT = "adapter_model.safetensors"
_PEFT_PICKLE = "adapter_model.bin"
_MISTRAL = "lora.safetensors"

_CONVERT = """\
import torch
from safetensors.torch import save_file
state = torch.load({source!r}, map_location="cpu", weights_only=True)
save_file({{name: tensor.contiguous() for name, tensor in state.items()}}, {target!r})"""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """One adapter's files.

    Attributes:
        folder: Where small files lie.
        weights: The one file of tensors.
        container: ``peft``, ``mistral`` or ``gguf``.
    """

    folder: Path
    weights: Path
    container: str


def find_adapter_files(location: str, progress: Progress | None = None) -> AdapterFiles:
    """Finds an adapter, and downloads it if it is on the Hub.

    Args:
        location: A directory, a ``.gguf`` file, ``org/name[@revision]``, or ``org/name/FILE.gguf``.
        progress: Told of downloads.

    Raises:
        CheckpointError: There is no adapter, or it cannot be read.
    """
    if location.endswith(".gguf"):
        file = _gguf_file(location, progress)
        return AdapterFiles(folder=file.parent, weights=file, container="gguf")
    found = find_location(location)
    if isinstance(found, HubRepo):
        return _on_hub(location, found, progress)
    if found.is_file():
        raise CheckpointError(
            f"{location} is a single file, and only a .gguf file is an adapter by itself.",
            hint=f"Give its directory, which has {CONFIG} too: {found.parent}.",
        )
    return _in_folder(location, found, list_directory(found))


def small_folder(location: str, progress: Progress | None = None) -> Path | None:
    """The directory of an adapter's small files, without its weights; None for a file."""
    found = find_location(location)
    if isinstance(found, Path):
        return found if found.is_dir() else None
    from ferrule.checkpoint.hub import Hub

    return Hub.from_environment(progress).fetch_checkpoint(found, with_weights=False)


def _gguf_file(location: str, progress: Progress | None) -> Path:
    found = find_weight_path(location, Path())
    if isinstance(found, HubFile):
        from ferrule.checkpoint.hub import Hub

        return Hub.from_environment(progress).fetch_files(found.repo, [found.name])[0]
    return found


def _on_hub(location: str, repo: HubRepo, progress: Progress | None) -> AdapterFiles:
    # The Hub's client costs a third of a second to import, and local adapters do not need it.
    from ferrule.checkpoint.hub import Hub

    hub = Hub.from_environment(progress)
    folder = hub.fetch_checkpoint(repo, with_weights=False)
    names = list_directory(folder)
    weights = _PEFT if CONFIG in names else _MISTRAL
    # The commit, not the branch, which may move between the two downloads.
    fetched = hub.fetch_files(HubRepo(name=repo.name, revision=folder.name), [weights])
    return _in_folder(location, folder, [*names, fetched[0].name])


def _in_folder(location: str, folder: Path, names: list[str]) -> AdapterFiles:
    if CONFIG in names and _PEFT in names:
        return AdapterFiles(folder=folder, weights=folder / _PEFT, container="peft")
    if _PEFT_PICKLE in names:
        raise _pickle(location)
    if _MISTRAL in names:
        return AdapterFiles(folder=folder, weights=folder / _MISTRAL, container="mistral")
    ggufs = [name for name in names if name.endswith(".gguf")]
    if CONFIG not in names and len(ggufs) == 1:
        return AdapterFiles(folder=folder, weights=folder / ggufs[0], container="gguf")
    raise CheckpointError(
        f"{location} is no LoRA adapter: {_missing(names)}. It has: "
        f"{', '.join(names[:10]) or 'nothing'}{' ...' if len(names) > 10 else ''}.",
        hint=f"Expected are {CONFIG} and {_PEFT} (PEFT), {_MISTRAL} and params.json "
        "(mistral-finetune), or a GGUF adapter of llama.cpp.",
    )


def _missing(names: list[str]) -> str:
    if CONFIG in names:
        return f"it has {CONFIG} and no {_PEFT}"
    return f"it has no {CONFIG}" + (f" beside {_PEFT}" if _PEFT in names else "")


def _pickle(location: str) -> CheckpointError:
    folder = location.rstrip("/")
    snippet = _CONVERT.format(source=f"{folder}/{_PEFT_PICKLE}", target=f"{folder}/{_PEFT}")
    return CheckpointError(
        f"{location} has its weights in a pickle file only ({_PEFT_PICKLE}). It is never loaded, "
        "because opening one runs whatever code it holds.",
        hint=f"If you trust where it comes from, convert it to safetensors:\n\n{snippet}\n",
    )


def tokenizer_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Those of a directory's small files that make up its tokenizer."""
    others = ("config.json", "params.json", "generation_config.json")
    return {name: path for name, path in files.items() if name not in others}
