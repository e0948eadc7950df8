"""Which of a directory's files are its weights: one set, or an error that says why not."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ferrule.checkpoint.gguf_parts import part_names
from ferrule.checkpoint.refused_weights import no_weights
from ferrule.checkpoint.safetensors import read_index
from ferrule.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = f"{_SINGLE}.index.json"
_ADAPTER = "adapter_model.safetensors"
# What file names call the types that --quantization-encoding spells out.
_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The files that hold one model's weights.

    Attributes:
        kind: Their container.
        names: File names, all in one directory.
        index: The index that lists them, if there is one.
    """

    kind: Literal["safetensors", "gguf"]
    names: tuple[str, ...]
    index: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which quantisation a user asks for.

    Attributes:
        name: ``Q4_K_M``, or what of it is enough to tell files apart, in any case.
        is_gguf: Whether nothing but a GGUF file will do.
    """

    name: str
    is_gguf: bool


def choose_weight_files(
    where: str, folder: Path, names: Collection[str], wanted: Wanted | None = None
) -> WeightFiles:
    """Chooses one set of weight files.

    Hugging Face's safetensors come before Mistral's and Meta's ``consolidated`` ones, which are
    the same weights under other names, and both before GGUF.

    Args:
        where: What the user gave, for messages.
        folder: Where the small files (the index, config.json ...) can be read.
        names: All file names there are; the weights themselves need not be in ``folder`` yet.
        wanted: Chooses among several GGUF files.

    Raises:
        CheckpointError: There are no weights, only refused ones (pickle files, a LoRA adapter),
            several sets, or shards are missing.
    """
    if wanted is not None and wanted.is_gguf:
        names = [name for name in names if ".safetensors" not in name]
    stored = sorted(name for name in names if name.endswith(".safetensors") and name != _ADAPTER)
    native = [name for name in stored if name.startswith("consolidated")]
    ours = [name for name in stored if name not in native]
    if index := _index(names, native=False):
        indexed = _indexed(folder, index, names)
        # save_pretrained into a used directory leaves an older, sharded save's index behind.
        if _SINGLE not in ours or _SINGLE in indexed.names:
            return _checked(indexed, folder, names)
    if _SINGLE in ours:
        return WeightFiles(kind="safetensors", names=(_SINGLE,))
    if ours:
        return _unindexed(where, ours)
    if index := _index(names, native=True):
        return _checked(_indexed(folder, index, names), folder, names)
    if native:
        return WeightFiles(kind="safetensors", names=tuple(native))
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        return _only_gguf(where, ggufs, wanted)
    raise no_weights(where, folder, names)


def _index(names: Collection[str], *, native: bool) -> str | None:
    if _INDEX in names and not native:
        return _INDEX
    found = [
        name
        for name in names
        if name.endswith(".safetensors.index.json") and name.startswith("consolidated") is native
    ]
    return found[0] if len(found) == 1 else None


def _indexed(folder: Path, index: str, names: Collection[str]) -> WeightFiles:
    shards = sorted(set(read_index(folder / index).values()))
    return WeightFiles(kind="safetensors", names=tuple(shards), index=index)


def _checked(files: WeightFiles, folder: Path, names: Collection[str]) -> WeightFiles:
    missing = [name for name in files.names if name not in names]
    if missing:
        raise CheckpointError(
            f"{folder / str(files.index)} names {len(files.names)} files,"
            f" of which {len(missing)} are missing: {', '.join(missing)}.",
            hint="Copy or download the missing files into the same directory.",
        )
    return files


def _unindexed(where: str, names: list[str]) -> WeightFiles:
    if len(names) == 1 and not _SHARD.fullmatch(names[0]):
        return WeightFiles(kind="safetensors", names=tuple(names))
    shards = [match for match in map(_SHARD.fullmatch, names) if match]
    if len(shards) < len(names) or len({(match[1], match[3]) for match in shards}) > 1:
        raise CheckpointError(
            f"{where} holds several safetensors files and no index that says which belong"
            f" together: {', '.join(names)}.",
            hint=f"Name one of them: `ferrule serve {where} --weight-path {where}/{names[0]}`.",
        )
    width, count = len(shards[0][2]), int(shards[0][3])
    present = {int(match[2]) for match in shards}
    if len(present) != count:
        missing = [number for number in range(1, count + 1) if number not in present][:20]
        raise CheckpointError(
            f"{where} has {len(present)} of {count} shards; missing are the numbers"
            f" {', '.join(f'{number:0{width}d}' for number in missing)}.",
            hint="Copy or download the missing files into the same directory.",
        )
    return WeightFiles(kind="safetensors", names=tuple(names))


def _only_gguf(where: str, names: list[str], wanted: Wanted | None) -> WeightFiles:
    found = names if wanted is None else _named_after(wanted.name, names)
    if not found and wanted is not None and (wanted.is_gguf or len(names) > 1):
        raise CheckpointError(
            f"{where} holds no GGUF file named after {wanted.name}, but {', '.join(names)}.",
            hint="Take the name of one that is there.",
        )
    found = found or names
    parts = part_names(found[0])
    if set(found) <= set(parts):
        return WeightFiles(kind="gguf", names=tuple(parts))
    raise CheckpointError(
        f"{where} holds {len(found)} GGUF files: {', '.join(found)}.",
        hint=f"Name one of them: `ferrule serve {where} --weight-path {where}/{found[0]}`.",
    )


def _named_after(variant: str, names: list[str]) -> list[str]:
    """The files with a quantisation in their names; q4_k is Q4_K_M where that is all there is."""
    word = re.escape(_SHORT.get(variant.lower(), variant))
    for end in (r"(?![A-Za-z0-9_])", r"(?![A-Za-z0-9])"):
        pattern = re.compile(rf"(?<![A-Za-z0-9]){word}{end}", re.IGNORECASE)
        if found := [name for name in names if pattern.search(name)]:
            return found
    return []
