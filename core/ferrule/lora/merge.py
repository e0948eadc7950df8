"""Merges an adapter into its base: one model in safetensors, under the base's own names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.errors import LoadError, OptionError
from ferrule.lora.adapter import Adapter
from ferrule.lora.base import EMBEDDING, HEAD, Base
from ferrule.lora.merged_files import write_small_files
from ferrule.lora.shards import Planned, num_bytes, write_shards
from ferrule.lora.update import ModuleUpdate, dora_gain
from ferrule.matching.renamed_checkpoint import Source
from ferrule.quantization.formats import FORMATS

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What a merge wrote.

    Attributes:
        files: Names of the files with weights.
        num_tensors: In them.
        num_changed: Of those, how many differ from the base's.
        num_bytes: Of all tensors.
        is_untied: Whether the head has become a matrix of its own.
    """

    files: tuple[str, ...]
    num_tensors: int
    num_changed: int
    num_bytes: int
    is_untied: bool


def merge_adapter(
    base: Base,
    adapter: Adapter,
    out: Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Writes the base with the adapter's changes; every other tensor is copied byte for byte.

    Products are computed in float32 and rounded once, to the type in which the base keeps a tensor.

    Args:
        base: In safetensors.
        adapter: Opened with ``merging=True``.
        out: A directory that does not exist yet, or is empty; it appears when all is written.
        max_shard_bytes: Most bytes of one file.
        progress: Called with bytes written and bytes in all.

    Raises:
        OptionError: ``out`` exists.
        LoadError: The base is quantised, or has no place for a bias or a head of its own.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(
            f"{out} exists already.", hint="Give a directory that does not exist yet."
        )
    tensors, changed = _plan(base, adapter)
    is_untied = _is_untied(base, changed)
    partial_out = out.with_name(f"{out.name}.partial")
    partial_out.mkdir(parents=True)
    try:
        files = write_shards(partial_out, tensors, max_bytes=max_shard_bytes, progress=progress)
        write_small_files(base, adapter, partial_out, is_untied=is_untied)
    except BaseException:
        shutil.rmtree(partial_out)
        raise
    if out.exists():
        out.rmdir()
    partial_out.rename(out)
    return Merged(
        files=tuple(files),
        num_tensors=len(tensors),
        num_changed=len(changed),
        num_bytes=sum(tensor.nbytes for tensor in tensors),
        is_untied=is_untied,
    )


def _is_untied(base: Base, changed: set[str]) -> bool:
    """Whether the config calls the head tied and it is so no longer."""
    says_tied = bool(base.match.checkpoint.config.get("tie_word_embeddings"))
    has_head = f"{HEAD}.weight" in base.match.checkpoint.tensors
    return (says_tied or base.is_tied) and (HEAD in changed or (has_head and EMBEDDING in changed))


def _plan(base: Base, adapter: Adapter) -> tuple[list[Planned], set[str]]:
    """All tensors in the base's order, and the canonical modules that they change."""
    checkpoint = base.match.checkpoint
    if checkpoint.kind != "safetensors":
        raise LoadError(
            f"{base.location} is a GGUF file, and merging writes safetensors.",
            hint="Merge into the original model and convert the result, or serve the adapter "
            "beside the GGUF file, which needs no merge.",
        )
    updates = _updates(base, adapter)
    parts: dict[str, list[tuple[str, Source]]] = {}
    for name, source in checkpoint.sources.items():
        parts.setdefault(source.stored, []).append((name, source))
    tensors: list[Planned] = []
    changed: set[str] = set()
    for stored, info in checkpoint.stored.tensors.items():
        touched = [
            (source, change)
            for name, source in parts.get(stored, ())
            if (change := _change(name, updates)) is not None
        ]
        changed |= {change.module for _, change in touched}
        tensors.append(_planned(base, stored, info, touched))
    tensors += _new_head(base, updates, changed)
    _check_all_merged(base, updates, changed)
    return tensors, changed


def _updates(base: Base, adapter: Adapter) -> dict[str, ModuleUpdate]:
    """The adapter's, with a head of its own where the tie would carry a change too far."""
    updates = dict(adapter.modules)
    embedding, head = updates.get(EMBEDDING), updates.get(HEAD)
    if not base.is_tied or (embedding is None and head is None):
        return updates
    if embedding is not None and head is not None and _are_alike(embedding, head):
        del updates[HEAD]
    else:
        updates[HEAD] = head or ModuleUpdate()
    return updates


def _are_alike(embedding: ModuleUpdate, head: ModuleUpdate) -> bool:
    """Whether both are one new matrix and nothing more."""
    is_whole = embedding.a is None and head.a is None and head.bias is None
    if not is_whole or embedding.full is None or head.full is None:
        return False
    return torch.equal(embedding.full, head.full)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Change:
    module: str
    kind: str
    update: ModuleUpdate


def _change(name: str, updates: Mapping[str, ModuleUpdate]) -> _Change | None:
    module, _, kind = name.rpartition(".")
    update = updates.get(module)
    if update is None or kind not in ("weight", "bias"):
        return None
    if kind == "bias" and update.bias is None:
        return None
    if kind == "weight" and update.a is None and update.full is None:
        return None
    return _Change(module=module, kind=kind, update=update)


def _planned(
    base: Base, stored: str, info: TensorInfo, touched: list[tuple[Source, _Change]]
) -> Planned:
    if not touched:
        read = partial(base.match.checkpoint.stored.read, stored)
        return Planned(
            name=stored, format=info.format, shape=info.shape, nbytes=info.nbytes, make=read
        )
    if info.format not in _DTYPES:
        raise LoadError(
            f"{base.location} keeps {stored} as {info.format}, which nothing can be added to.",
            hint="Merge into the model before it was quantised.",
        )
    full = touched[0][1].update.full if touched[0][1].kind == "weight" else None
    shape = info.shape if full is None or len(touched) > 1 else tuple(full.shape)
    if touched[0][0].rows is not None:
        shape = info.shape
    return Planned(
        name=stored,
        format=info.format,
        shape=shape,
        nbytes=num_bytes(info.format, shape),
        make=partial(_merged_bytes, base, stored, info, touched),
    )


def _merged_bytes(
    base: Base, stored: str, info: TensorInfo, touched: list[tuple[Source, _Change]]
) -> NDArray[np.uint8]:
    data = torch.from_numpy(base.match.checkpoint.stored.read(stored))
    own = FORMATS[info.format].dequantize(data).reshape(info.shape)
    for source, change in touched:
        if source.rows is None:
            own = _merged(own, change)
        else:
            rows = source.rows
            index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
            own = own.to(torch.float32, copy=True)
            own[index] = _merged(own[index], change).float()
    return _bytes(own, info.format)


def _merged(own: Tensor, change: _Change) -> Tensor:
    if change.kind == "bias":
        assert change.update.bias is not None
        return own.float() + change.update.bias
    return merged_weight(own, change.update, is_embedding=change.module == EMBEDDING)


def merged_weight(own: Tensor, update: ModuleUpdate, *, is_embedding: bool = False) -> Tensor:
    """The stored matrix with an update: float32, or unchanged without one.

    Args:
        own: ``[out, in]``, or ``[vocabulary, hidden]`` of an embedding.
        update: Of the module.
        is_embedding: Whether rows of the matrix are inputs.
    """
    weight = own if update.full is None else update.full
    if update.a is None:
        return weight
    weight = weight.float() + update.delta(transposed=is_embedding)
    if update.magnitude is None:
        return weight
    before = own if update.full is None else update.full
    gain = dora_gain(update, before.T if is_embedding else before)
    return weight * (gain if is_embedding else gain[:, None])


def _bytes(tensor: Tensor, format: str) -> NDArray[np.uint8]:
    return tensor.to(_DTYPES[format]).contiguous().reshape(-1).view(torch.uint8).numpy()


def _new_head(
    base: Base, updates: Mapping[str, ModuleUpdate], changed: set[str]
) -> Iterator[Planned]:
    """The head that a tied base does not have, under the name that the base's prefixes give it."""
    if HEAD not in updates or f"{HEAD}.weight" in base.match.checkpoint.tensors:
        return
    source = base.match.sources[f"{EMBEDDING}.weight"]
    prefix, found, _ = source.stored.rpartition(f"{EMBEDDING}.weight")
    if not found or source.rows is not None:
        raise LoadError(
            f"{base.location} has one matrix for embedding and head, called {source.stored}; the "
            "adapter changes one of them, and the other's name is not known.",
            hint="Save the base under Hugging Face's names first, or serve the adapter unmerged.",
        )
    info = base.match.checkpoint.stored.tensors[source.stored]
    update = updates[HEAD]
    shape = info.shape if update.full is None else tuple(update.full.shape)
    changed.add(HEAD)

    def make() -> NDArray[np.uint8]:
        return _bytes(merged_weight(base.read(f"{HEAD}.weight"), update), info.format)

    nbytes = num_bytes(info.format, shape)
    yield Planned(
        name=f"{prefix}{HEAD}.weight", format=info.format, shape=shape, nbytes=nbytes, make=make
    )


def _check_all_merged(base: Base, updates: Mapping[str, ModuleUpdate], changed: set[str]) -> None:
    """Nothing of the adapter may be lost: a bias needs a place in the base."""
    homeless = [
        name
        for name, update in updates.items()
        if update.bias is not None and not base.has_bias(name)
    ]
    if homeless:
        raise LoadError(
            f"The adapter adds a bias to {len(homeless)} modules that have none in {base.location},"
            f" such as {homeless[0]}.",
            hint="Such a model is of another architecture; serve the adapter unmerged.",
        )
    lost = [name for name in updates if name not in changed]
    assert not lost, f"not merged: {lost}"
