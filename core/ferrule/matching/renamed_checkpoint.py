"""A checkpoint as weight adapters rename it, and the way back to the stored bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferrule.adapter import Rows, WeightAdapter
from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import LoadError
from ferrule.name_pattern import NamePattern


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """Where a renamed tensor's rows are stored.

    Attributes:
        stored: Name in the file.
        rows: Which of its rows, in which order; None is all of them as they are.
    """

    stored: str
    rows: Rows | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RenamedCheckpoint(Checkpoint):
    """A checkpoint under other names; shares the files with the stored one.

    A tensor whose rows are reordered keeps the header's file, offset and size of what is stored;
    ``read`` and ``read_rows`` give its rows in the new order.

    Attributes:
        stored: As the files have it.
        sources: For each of ``tensors``, where it comes from.
        ignored: Stored names that an adapter leaves out, to ``adapter: pattern``.
        unknown: Names that the adapter applied last has no pattern for.
    """

    stored: Checkpoint
    sources: Mapping[str, Source]
    ignored: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @classmethod
    def unchanged(cls, stored: Checkpoint) -> RenamedCheckpoint:
        """The checkpoint before any adapter."""
        return cls(
            location=stored.location,
            kind=stored.kind,
            config=stored.config,
            tensors=stored.tensors,
            generation_config=stored.generation_config,
            files=stored.files,
            metadata=stored.metadata,
            stored=stored,
            sources={name: Source(stored=name) for name in stored.tensors},
            ignored={},
        )

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor in the order of its rows: ``[nbytes]``; a copy if reordered."""
        return self.read_rows(name).reshape(-1)

    def read_rows(self, name: str) -> NDArray[np.uint8]:
        """Stored bytes with the row operations applied.

        Args:
            name: One of ``tensors``.

        Returns:
            ``[rows, row_bytes]`` uint8: a view of the mapped file, or a copy if rows are reordered.
            Each element of a one-dimensional tensor is a row.
        """
        source = self.sources[name]
        rows = _num_rows(self.stored.tensors[source.stored])
        data = self.stored.read(source.stored)
        data = data.reshape(rows, data.size // max(rows, 1))
        return data if source.rows is None else data[source.rows]


def renamed(
    checkpoint: RenamedCheckpoint, adapter: WeightAdapter, config: Mapping[str, Any]
) -> RenamedCheckpoint:
    """Applies one adapter's names and row operations.

    Args:
        checkpoint: As the adapters before left it.
        adapter: Whose patterns count.
        config: As the adapter makes it.

    Raises:
        LoadError: Two tensors get one name, or a tensor's rows do not suit a row operation.
    """
    patterns = [NamePattern(stored) for stored in adapter.names]
    tensors: dict[str, TensorInfo] = {}
    sources: dict[str, Source] = {}
    ignored = dict(checkpoint.ignored)
    unknown: list[str] = []
    for name, info in checkpoint.tensors.items():
        source = checkpoint.sources[name]
        canonical, pattern = _canonical(name, patterns, adapter)
        if pattern is None:
            unknown.append(name)
        if canonical is None:
            ignored[source.stored] = f"{adapter.name}: {pattern}"
            continue
        for part, rows in _parts(canonical, source.stored, info, adapter, config):
            if part in sources:
                raise _taken_twice(part, sources[part].stored, source.stored, adapter)
            sources[part] = Source(stored=source.stored, rows=_of_rows(source.rows, rows))
            tensors[part] = _header(part, info, rows)
    return replace(
        checkpoint,
        config=config,
        tensors=tensors,
        sources=sources,
        ignored=ignored,
        unknown=tuple(unknown),
    )


def _canonical(
    name: str, patterns: list[NamePattern], adapter: WeightAdapter
) -> tuple[str | None, str | None]:
    """The canonical name (None: left out) and the pattern that fits (None: the name stays)."""
    for pattern in patterns:
        if (values := pattern.fit(name)) is not None:
            canonical = adapter.names[pattern.text]
            return canonical and NamePattern(canonical).fill(values), pattern.text
    return name, None


def _parts(
    canonical: str,
    stored: str,
    info: TensorInfo,
    adapter: WeightAdapter,
    config: Mapping[str, Any],
) -> Iterator[tuple[str, Rows | None]]:
    """The canonical tensors that one stored tensor becomes, each with its rows."""
    for text, operation in adapter.rows.items():
        if (values := NamePattern(text).fit(canonical)) is None:
            continue
        try:
            parts = operation.parts(text, _num_rows(info), config)
        except ValueError as error:
            raise LoadError(
                f"The tensor {stored} of shape {list(info.shape)} does not suit the weight "
                f"adapter {adapter.name!r}, which makes it {canonical}: {error}."
            ) from error
        for part, rows in parts.items():
            NamePattern(part).check_filled_by(NamePattern(text))
            yield NamePattern(part).fill(values), rows
        return
    yield canonical, None


def _num_rows(info: TensorInfo) -> int:
    return info.shape[0] if info.shape else 1


def _of_rows(stored: Rows | None, rows: Rows | None) -> Rows | None:
    """Rows of rows: what an operation takes from what an earlier one took."""
    if stored is None or rows is None:
        return stored if rows is None else rows
    if not isinstance(stored, slice):
        return stored[rows]
    if isinstance(rows, slice):
        return slice(stored.start + rows.start, stored.start + rows.stop)
    return rows + stored.start


def _header(name: str, info: TensorInfo, rows: Rows | None) -> TensorInfo:
    if rows is None:
        return replace(info, name=name)
    row_bytes = info.nbytes // max(_num_rows(info), 1)
    first = rows.start if isinstance(rows, slice) else 0
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    return replace(
        info,
        name=name,
        shape=(count, *info.shape[1:]),
        offset=info.offset + first * row_bytes,
        nbytes=count * row_bytes,
    )


def _taken_twice(name: str, first: str, second: str, adapter: WeightAdapter) -> LoadError:
    return LoadError(
        f"Two stored tensors become {name}: {first} and {second} (weight adapter "
        f"{adapter.name!r}).",
        hint="The checkpoint holds the same weight twice; save it again with one of them.",
    )
