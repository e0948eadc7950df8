"""Headers of safetensors files, read and checked without the library, so that every fault is named.

The format is https://github.com/huggingface/safetensors#format: eight bytes (little-endian) that
say how long the JSON header is, the header, and then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.checkpoint.stored_file import open_stored, read_json_object
from ferrule.errors import CheckpointError

# The library's own limit (MAX_HEADER_SIZE in safetensors/src/tensor.rs).
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSION = 2**63

_DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


def read_safetensors(file: Path) -> dict[str, TensorInfo]:
    """Reads one file's header.

    Returns:
        Every tensor by name; ``format`` is the header's dtype (``F32``, ``BF16`` ...).

    Raises:
        CheckpointError: The file is not safetensors, is truncated (the message says how many bytes
            are missing), or its header contradicts itself or the file's size.
    """
    with open_stored(file) as (handle, size):
        text = _header_text(file, handle, size)
    tensors = {
        name: _tensor(file, name, entry, data_start=8 + len(text))
        for name, entry in _entries(file, text).items()
    }
    _check_layout(file, tensors.values(), data_start=8 + len(text), size=size)
    return tensors


def read_index(file: Path) -> dict[str, str]:
    """Reads ``model.safetensors.index.json``.

    Returns:
        For each tensor the name of the file that holds it, in the same directory.

    Raises:
        CheckpointError: It is not an index, or names a file outside its own directory.
    """
    weight_map = read_json_object(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{file} has no weight_map that names the file of each tensor.",
            hint="Save the checkpoint again, or copy its index from where it came.",
        )
    for tensor, shard in cast("dict[str, Any]", weight_map).items():
        if not isinstance(shard, str) or not _is_file_name(shard):
            raise CheckpointError(
                f"{file} says that tensor '{tensor}' is in {shard!r};"
                " the name of a file in the same directory is expected."
            )
    return cast("dict[str, str]", weight_map)


def read_sharded(index: Path) -> dict[str, TensorInfo]:
    """Reads the shards that an index names, and only those.

    A tensor that the index does not mention is taken along, so that nothing in a shard is
    overlooked.

    Raises:
        CheckpointError: A shard is missing or broken, lacks a tensor that the index says it has,
            or two shards hold the same tensor.
    """
    weight_map = read_index(index)
    shards = {name: read_safetensors(index.parent / name) for name in _distinct(weight_map)}
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise CheckpointError(
                f"{index.parent / shard} has no tensor '{tensor}', though {index.name} says so.",
                hint="Index and shards are of different saves: copy all of them again.",
            )
    # A stale copy of a tensor may be left in another shard; the index decides.
    chosen = (
        {name: info for name, info in tensors.items() if weight_map.get(name, shard) == shard}
        for shard, tensors in shards.items()
    )
    return merge(chosen)


def merge(files: Iterable[Mapping[str, TensorInfo]]) -> dict[str, TensorInfo]:
    """Puts the tensors of several files together.

    Raises:
        CheckpointError: Two files hold a tensor of the same name.
    """
    merged: dict[str, TensorInfo] = {}
    for tensors in files:
        for name, info in tensors.items():
            if name in merged:
                raise CheckpointError(
                    f"Tensor '{name}' is in both {merged[name].file} and {info.file}.",
                    hint="These are copies, or the tensor-parallel parts of one model, which have"
                    " to be joined first. Keep one set of weight files.",
                )
            merged[name] = info
    return merged


def _is_file_name(name: str) -> bool:
    return name == Path(name).name and name not in ("", "..") and name.isprintable()


def _distinct(weight_map: Mapping[str, str]) -> list[str]:
    return sorted(set(weight_map.values()))


def _header_text(file: Path, handle: BinaryIO, size: int) -> bytes:
    length = int.from_bytes(handle.read(8), "little")
    if size < 8 or length > _MAX_HEADER_BYTES or (size > 8 and handle.read(1) != b"{"):
        raise CheckpointError(
            f"{file} is not a safetensors file: it does not begin with the length of a JSON header"
            " and the header itself.",
            hint="Download or save the file again.",
        )
    if size < 8 + length:
        raise _truncated(file, size=size, needed=8 + length, what="its header alone")
    handle.seek(8)
    return handle.read(length)


def _entries(file: Path, text: bytes) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise _corrupt(file, f"it has '{twice}' twice")
        return entries

    try:
        entries = json.loads(
            text.decode(), object_pairs_hook=without_duplicates, parse_constant=_no_constant
        )
        # An escape such as \ud800 alone is valid JSON but no text.
        "".join(entries).encode()
    except json.JSONDecodeError as error:
        raise _corrupt(file, f"{error.msg} at character {error.pos} of its JSON") from error
    except (ValueError, RecursionError) as error:
        # Not UTF-8, a number of thousands of digits, or thousands of nested brackets.
        raise _corrupt(file, str(error)) from error
    metadata = entries.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(type(value) is str for value in metadata.values())):
        raise _corrupt(file, "__metadata__ is not a mapping of strings")
    return entries


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _tensor(file: Path, name: str, entry: object, *, data_start: int) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            numbers = [*cast("list[object]", shape), cast("object", begin), cast("object", end)]
        case _:
            raise _corrupt(file, f"tensor '{name}' lacks dtype, shape or data_offsets")
    if not all(type(number) is int and 0 <= number < _MAX_DIMENSION for number in numbers):
        raise _corrupt(file, f"tensor '{name}' has shape {shape} and offsets [{begin}, {end}]")
    *dims, first, last = cast("list[int]", numbers)
    if dtype not in _DTYPE_BITS:
        raise CheckpointError(
            f"{file}: tensor '{name}' has the unknown dtype '{dtype}'."
            f" Known: {', '.join(sorted(_DTYPE_BITS))}."
        )
    _check_size(file, name, dtype, dims, last - first)
    return TensorInfo(
        name=name,
        shape=tuple(dims),
        format=dtype,
        file=file,
        offset=data_start + first,
        nbytes=last - first,
    )


def _check_size(file: Path, name: str, dtype: str, dims: list[int], nbytes: int) -> None:
    # Thousands of large dimensions would take long to multiply; no array has that many.
    bits = prod(dims) * _DTYPE_BITS[dtype] if len(dims) <= 64 else -1
    if bits != nbytes * 8:
        raise _corrupt(
            file, f"tensor '{name}' of shape {dims} in {dtype} cannot have {nbytes:,} bytes"
        )


def _check_layout(file: Path, tensors: Iterable[TensorInfo], *, data_start: int, size: int) -> None:
    position = data_start
    for info in sorted(tensors, key=lambda info: (info.offset, info.nbytes)):
        if info.offset != position:
            what = "overlaps the one before" if info.offset < position else "leaves a gap before it"
            raise _corrupt(file, f"tensor '{info.name}' {what}")
        position += info.nbytes
    if size < position:
        raise _truncated(file, size=size, needed=position, what="its header")
    if size > position:
        raise _corrupt(file, f"{size - position:,} bytes follow that it says nothing of")


def _truncated(file: Path, *, size: int, needed: int, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is truncated: {what} calls for {needed:,} bytes and the file has {size:,};"
        f" {needed - size:,} bytes are missing.",
        hint="An interrupted download or copy: fetch the file again.",
    )


def _corrupt(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file} has a corrupt safetensors header: {what}.",
        hint="Download or save the file again.",
    )
