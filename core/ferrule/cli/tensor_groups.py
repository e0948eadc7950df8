"""Tensors that differ only in the numbers of their names, put together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ferrule.inspection.report import Destination

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorGroup:
    """Alike tensors, of all layers say.

    A name's first number is written ``N``; further ones, of experts say, as the range they have.

    Attributes:
        section: What the canonical names have in common up to ``N``; empty without a number.
        stored_section: The same of the stored names.
        name: The rest of the canonical names.
        stored: The rest of the stored names.
        module: The path of what takes them, without the section; None: nothing does.
        shape: Of each.
        format: Of each.
        rows: Which stored rows each one takes, in words.
        numbers: What ``N`` stands for, such as ``0-29``; empty without a number.
        count: How many tensors these are.
    """

    section: str
    stored_section: str
    name: str
    stored: str
    module: str | None
    shape: tuple[int, ...]
    format: str
    rows: str
    numbers: str
    count: int


def group_tensors(destinations: Iterable[Destination]) -> list[TensorGroup]:
    """Groups in the order of their first tensors, those without a number before all others."""
    alike: dict[tuple[object, ...], list[Destination]] = {}
    for each in destinations:
        # Other numbers than in the canonical name would be lost, so such names stay apart.
        is_parallel = _numbers(each.stored) == _numbers(each.name)
        stored = _NUMBER.sub("#", each.stored) if is_parallel else each.stored
        module = each.module and _NUMBER.sub("#", each.module)
        name = _NUMBER.sub("#", each.name)
        key = (name, stored, module, each.shape, each.format, each.rows)
        alike.setdefault(key, []).append(each)
    groups = [_group(members) for members in alike.values()]
    return sorted(groups, key=lambda group: group.section != "")


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in words, such as ``0-3,6,8-9``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _group(members: list[Destination]) -> TensorGroup:
    first = members[0]
    columns = list(zip(*(_numbers(each.name) for each in members), strict=True))
    found = [ranges(column) for column in columns]
    section, name = _cut(_fill(first.name, found))
    is_parallel = _numbers(first.stored) == _numbers(first.name)
    stored_section, stored = _cut(_fill(first.stored, found) if is_parallel else first.stored)
    module = None if first.module is None else _fill(first.module, found)
    return TensorGroup(
        section=section,
        stored_section=stored_section,
        name=name,
        stored=stored,
        module=module and module.removeprefix(f"{section}."),
        shape=first.shape,
        format=first.format,
        rows=first.rows,
        numbers=found[0] if found else "",
        count=len(members),
    )


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(name))


def _fill(name: str, found: list[str]) -> str:
    """The name with ``N`` for its first number and a range for each of the others."""
    fillings = iter(["N", *found[1:]])
    return _NUMBER.sub(lambda number: next(fillings, number[0]), name)


def _cut(name: str) -> tuple[str, str]:
    """The part that ends in ``N``, and the rest."""
    before, separator, rest = name.partition(".N.")
    return (f"{before}.N", rest) if separator else ("", name)
