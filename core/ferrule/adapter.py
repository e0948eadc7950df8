"""A dialect: how a checkpoint spells config keys and weight names. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.name_pattern import NamePattern

Rows = slice | NDArray[np.int64]
"""Which rows of a tensor, in which order; a slice has a start and a stop and no step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Permute:
    """Reorders the rows of q or k from neighbouring rotary pairs to halves.

    Meta's and llama.cpp's files keep a rotary pair in rows ``2i, 2i+1`` of a head; the canonical
    (Hugging Face) order keeps it in rows ``i, i + head_dim/2``.

    Attributes:
        heads: Config key that says how many heads the rows hold.
    """

    heads: str

    def index(self, num_rows: int, config: Mapping[str, Any]) -> NDArray[np.int64]:
        """For each canonical row, the stored row: ``[num_rows]``.

        Raises:
            ValueError: The rows are no whole number of heads with an even number of rows each.
        """
        heads = _number(config, self.heads)
        if num_rows % (2 * heads):
            raise ValueError(
                f"{num_rows} rows are not {heads} heads ({self.heads}) of rotary pairs"
            )
        stored = np.arange(num_rows, dtype=np.int64).reshape(heads, num_rows // heads // 2, 2)
        return stored.swapaxes(1, 2).reshape(-1)

    def parts(self, name: str, num_rows: int, config: Mapping[str, Any]) -> Mapping[str, Rows]:
        """The tensor under its own name, reordered."""
        return {name: self.index(num_rows, config)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Cuts a stored tensor's rows into several canonical tensors, in the order given.

    Attributes:
        into: Gets the config; gives the canonical name (placeholders of the pattern allowed) and
            the number of rows of each part.
        groups: Config key that says in how many groups the rows lie, each holding its share of
            every part (q, k and v of one kv head, say); None when every part lies in one piece.
    """

    into: Callable[[Mapping[str, Any]], Mapping[str, int]]
    groups: str | None = None

    def parts(self, name: str, num_rows: int, config: Mapping[str, Any]) -> Mapping[str, Rows]:
        """The stored rows of each part, by the part's name or pattern.

        Raises:
            ValueError: The parts do not add up to the rows, or do not divide into the groups.
        """
        sizes = self.into(config)
        groups = 1 if self.groups is None else _number(config, self.groups)
        if sum(sizes.values()) != num_rows:
            listed = " + ".join(str(size) for size in sizes.values())
            raise ValueError(f"{num_rows} rows are not the {listed} that the config asks for")
        if any(size % groups for size in sizes.values()):
            raise ValueError(f"the parts do not divide into {groups} groups ({self.groups})")
        return _cut(sizes, groups)


def _cut(sizes: Mapping[str, int], groups: int) -> Mapping[str, Rows]:
    total = sum(sizes.values())
    stored = np.arange(total, dtype=np.int64).reshape(groups, total // groups)
    parts: dict[str, Rows] = {}
    start = 0
    for name, size in sizes.items():
        stop = start + size // groups
        parts[name] = slice(start, stop) if groups == 1 else stored[:, start:stop].reshape(-1)
        start = stop
    return parts


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"the config's {key} is {value!r}")
    return value


RowOperation = Permute | Split


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightAdapter:
    """How one kind of checkpoint spells names and config keys.

    A pattern is a dotted name with placeholders: ``{n}`` stands for one component, ``{rest*}``
    for any number of them, none included. The right side repeats placeholders of the left, or
    is None: such tensors are left out, and the report says so. The first pattern that fits counts.

    Attributes:
        name: What ``--weight-adapter`` takes; unique among all installed plugins.
        kind: A wrapper peels off and is tried again until none applies; a dialect is chosen once.
            Names that no pattern fits stay as they are, so in the end they must be canonical:
            loading reports all others as not taken.
        matches: Whether a checkpoint (config and names as the adapters before left them) is of
            this kind. Only headers may be looked at.
        names: Stored pattern to canonical (Hugging Face's) pattern, or None.
        config: Makes the config Hugging Face's; None leaves it.
        rows: Canonical pattern to an operation on the rows of the tensors that it fits. Acts alike
            on dense tensors and packed quantised rows.

    Raises:
        ValueError: A pattern is malformed, or its right side has a placeholder that its left lacks.
    """

    name: str
    kind: Literal["dialect", "wrapper"] = "dialect"
    matches: Callable[[Checkpoint], bool]
    names: Mapping[str, str | None]
    config: Callable[[Checkpoint], Mapping[str, Any]] | None = None
    rows: Mapping[str, RowOperation] = field(default_factory=dict[str, RowOperation])

    def __post_init__(self) -> None:
        for stored, canonical in self.names.items():
            pattern = NamePattern(stored)
            if canonical is not None:
                NamePattern(canonical).check_filled_by(pattern)
        for canonical in self.rows:
            NamePattern(canonical)
