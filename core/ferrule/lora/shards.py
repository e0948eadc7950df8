"""Writes safetensors files tensor by tensor, so that one tensor at a time is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A tensor that will be written.

    Attributes:
        name: In the file.
        format: safetensors' dtype.
        shape: Row-major.
        nbytes: Of its bytes.
        make: Gives them: ``[nbytes]`` uint8.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    nbytes: int
    make: Callable[[], NDArray[np.uint8]]


def num_bytes(format: str, shape: tuple[int, ...]) -> int:
    """Of a dense tensor."""
    return _ITEM_BYTES[format] * prod(shape)


def write_shards(
    folder: Path,
    tensors: Sequence[Planned],
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Writes ``model.safetensors``, or shards and their index if they exceed ``max_bytes``.

    Args:
        folder: Where.
        tensors: In the order of the files.
        max_bytes: Most bytes of a file's tensors; one larger tensor has a file of its own.
        progress: Called with bytes written and bytes in all.

    Returns:
        Names of the files with tensors.
    """
    shards = list(_shards(tensors, max_bytes))
    total = sum(tensor.nbytes for tensor in tensors)
    names = [_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    done = 0
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(shard))
            for tensor in shard:
                data = tensor.make()
                assert data.nbytes == tensor.nbytes, tensor.name
                file.write(data.data)
                done += tensor.nbytes
                progress(done, total)
    if len(shards) > 1:
        where = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    return names


def _shards(tensors: Sequence[Planned], max_bytes: int) -> Iterator[list[Planned]]:
    shard: list[Planned] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _header(tensors: Sequence[Planned]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.format,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The tensors begin at a multiple of eight bytes, as the library writes them.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
