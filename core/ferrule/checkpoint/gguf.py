"""Reads a GGUF file's header: metadata, and where every tensor lies, all of it checked."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.checkpoint.gguf_cursor import Cursor
from ferrule.checkpoint.gguf_types import GGML_TYPES, UNSUPPORTED_GGML_TYPES, GgmlType
from ferrule.checkpoint.stored_file import open_stored
from ferrule.errors import CheckpointError

_MAGIC = b"GGUF"
# What llama.cpp wrote until August 2023, as bytes: ggml, ggjt, ggmf, ggla.
_OLD_MAGICS = frozenset({b"lmgg", b"tjgg", b"fmgg", b"algg"})
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_WEIGHTS = 2**63

# The fewest bytes that each can take: lengths, numbers and types with empty names.
_MIN_PAIR_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
# Real files have tens of pairs and thousands of tensors.
_MAX_PAIRS = 2**16
_MAX_TENSORS = 2**17


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Values by key; arrays are lists.
        tensors: Headers by stored name, shapes row-major.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_gguf(file: Path) -> GgufHeader:
    """Reads the header of one file (version 2 or 3, little-endian).

    No count, length or offset is believed before it has been compared with the file's size, so a
    damaged or hostile header is an error at once and allocates nothing.

    Raises:
        CheckpointError: The file is not GGUF, truncated, contradicts itself, or has a tensor in a
            format that cannot be run.
    """
    with (
        open_stored(file) as (handle, size),
        mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        cursor = Cursor(file, data)
        _check_magic(cursor, data[:8])
        num_tensors, num_pairs = _counts(cursor)
        metadata = _metadata(cursor, num_pairs)
        alignment = _alignment(cursor, metadata)
        stored = [_stored_tensor(cursor) for _ in range(num_tensors)]
        data_start = -(-cursor.position // alignment) * alignment
    tensors = _placed(cursor, stored, data_start, alignment)
    _check_extent(file, tensors, size)
    return GgufHeader(metadata=metadata, tensors=tensors)


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredTensor:
    name: str
    shape: tuple[int, ...]
    kind: GgmlType
    offset: int  # from the beginning of the data


def _check_magic(cursor: Cursor, start: bytes) -> None:
    if start[:4] in _OLD_MAGICS:
        raise CheckpointError(
            f"{cursor.file} is in a format of llama.cpp from before GGUF.",
            hint="Convert the original model to GGUF with today's llama.cpp.",
        )
    if start[:4] != _MAGIC:
        raise CheckpointError(
            f"{cursor.file} is not a GGUF file: it begins with {start[:4]!r} instead of b'GGUF'.",
            hint="Check what was downloaded: an error page is often saved under the file's name.",
        )
    cursor.take(4, "the magic")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise CheckpointError(
            f"{cursor.file} is a big-endian GGUF file; only little-endian ones can be read.",
            hint="Convert it with gguf_convert_endian.py of llama.cpp.",
        )
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{cursor.file} is a GGUF file of version {version};"
            f" versions {' and '.join(map(str, _VERSIONS))} can be read.",
            hint="Convert the original model again with today's llama.cpp.",
        )


def _counts(cursor: Cursor) -> tuple[int, int]:
    num_tensors, num_pairs = cursor.u64("the tensor count"), cursor.u64("the metadata count")
    needed = num_tensors * _MIN_TENSOR_BYTES + num_pairs * _MIN_PAIR_BYTES
    if needed > cursor.remaining or num_tensors > _MAX_TENSORS or num_pairs > _MAX_PAIRS:
        raise cursor.corrupt(
            f"it claims {num_tensors:,} tensors and {num_pairs:,} metadata pairs"
            f" with {cursor.remaining:,} bytes left"
        )
    return num_tensors, num_pairs


def _metadata(cursor: Cursor, num_pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for number in range(num_pairs):
        key = cursor.string(f"metadata key {number} of {num_pairs}")
        if key in metadata:
            raise cursor.corrupt(f"it has the metadata key '{key}' twice")
        metadata[key] = cursor.value(f"the value of '{key}'")
    return metadata


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment.bit_count() != 1:
        raise cursor.corrupt(f"general.alignment is {alignment!r}; a power of two is expected")
    return alignment


def _stored_tensor(cursor: Cursor) -> _StoredTensor:
    name = cursor.string("a tensor's name")
    what = f"tensor '{name}'"
    num_dims = cursor.u32(what)
    if num_dims > _MAX_DIMS:
        raise cursor.corrupt(f"{what} has {num_dims} dimensions; at most {_MAX_DIMS} are possible")
    dims = [cursor.u64(what) for _ in range(num_dims)]
    if prod(dim or 1 for dim in dims) >= _MAX_WEIGHTS:
        raise cursor.corrupt(f"{what} has the impossible shape {dims}")
    kind = _kind(cursor, what, cursor.u32(what))
    row = dims[0] if dims else 1
    if row % kind.block_size:
        raise cursor.corrupt(
            f"{what} in {kind.name} has rows of {row} weights, not whole blocks of"
            f" {kind.block_size}"
        )
    # GGUF lists the innermost dimension first.
    return _StoredTensor(name=name, shape=tuple(dims[::-1]), kind=kind, offset=cursor.u64(what))


def _kind(cursor: Cursor, what: str, number: int) -> GgmlType:
    if number in GGML_TYPES:
        return GGML_TYPES[number]
    if number not in UNSUPPORTED_GGML_TYPES:
        raise cursor.corrupt(f"{what} has the unknown ggml type {number}")
    supported = ", ".join(kind.name for kind in GGML_TYPES.values())
    raise CheckpointError(
        f"{cursor.file}: {what} is stored as {UNSUPPORTED_GGML_TYPES[number]}, which cannot be run."
        f" Supported: {supported}.",
        hint="Take another quantisation of the model, such as Q4_K_M or Q8_0.",
    )


def _placed(
    cursor: Cursor, stored: list[_StoredTensor], data_start: int, alignment: int
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for tensor in stored:
        if tensor.name in tensors:
            raise cursor.corrupt(f"it has the tensor '{tensor.name}' twice")
        if tensor.offset % alignment:
            raise cursor.corrupt(
                f"tensor '{tensor.name}' begins at offset {tensor.offset:,},"
                f" not a multiple of {alignment}"
            )
        tensors[tensor.name] = TensorInfo(
            name=tensor.name,
            shape=tensor.shape,
            format=tensor.kind.name,
            file=cursor.file,
            offset=data_start + tensor.offset,
            nbytes=tensor.kind.num_bytes(prod(tensor.shape)),
        )
    _check_overlap(cursor, tensors)
    return tensors


def _check_overlap(cursor: Cursor, tensors: Mapping[str, TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted(tensors.values(), key=lambda info: (info.offset, info.nbytes)):
        if info.offset < end:
            raise cursor.corrupt(f"tensors '{before}' and '{info.name}' overlap")
        end, before = info.offset + info.nbytes, info.name


def _check_extent(file: Path, tensors: Mapping[str, TensorInfo], size: int) -> None:
    last = max(tensors.values(), key=lambda info: info.offset + info.nbytes, default=None)
    needed = last.offset + last.nbytes if last else 0
    if last and needed > size:
        raise CheckpointError(
            f"{file} is truncated: its header places tensor '{last.name}' up to byte {needed:,} and"
            f" the file has {size:,}; {needed - size:,} bytes are missing.",
            hint="An interrupted download or copy: fetch the file again.",
        )
