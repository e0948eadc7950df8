"""All that does not fit between an adapter and its base, told at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field

from ferrule.errors import LoadError

_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounting:
    """Collects what is wrong while an adapter is read.

    Attributes:
        adapter: Its location.
        base: The base's location.
        trained_on: The base in the adapter's own words; may be empty.
        not_taken: Tensors of modules that the base lacks, or that are not understood.
        incomplete: Modules that lack a part.
        broken: Tensors with values that are no numbers.
        misshaped: Tensors whose shapes are not the base's.
        untouched: Targets of the config without tensors, and tensors that are no targets.
        refused: What could be merged but not applied beside the base.
        unused: Tensors that rightly change nothing, to the reason.
    """

    adapter: str
    base: str
    trained_on: str
    not_taken: list[str] = field(default_factory=list[str])
    incomplete: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])
    misshaped: list[str] = field(default_factory=list[str])
    untouched: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    unused: dict[str, str] = field(default_factory=dict[str, str])

    def take_no(self, stored: str, known: Collection[str], spelled: str | None = None) -> None:
        """Notes a tensor that nothing takes, with the nearest module of the base."""
        if len(self.not_taken) >= _SHOWN:
            self.not_taken.append(stored)
            return
        near = difflib.get_close_matches(spelled or stored, list(known)[:4000], n=1, cutoff=0.7)
        self.not_taken.append(f"{stored} (near: {near[0]})" if near else stored)

    @property
    def is_exact(self) -> bool:
        """Whether every tensor has its place and every target its tensors."""
        return not any(getattr(self, kind) for kind, _ in _KINDS)

    def error(self) -> LoadError:
        """Everything at once."""
        lines = [f"The adapter {self.adapter} does not fit the base model {self.base}:"]
        for kind, title in _KINDS:
            found: list[str] = getattr(self, kind)
            if found:
                lines.append(f"  {title} ({len(found)}):")
                lines += [f"    {each}" for each in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"    ... and {len(found) - _SHOWN} more")
        return LoadError("\n".join(lines), hint=self._hint())

    def _hint(self) -> str:
        trained = f" It says that it was trained on {self.trained_on}." if self.trained_on else ""
        if self.misshaped:
            return f"It belongs to a model of another size.{trained} Give that one as the base."
        if self.not_taken:
            return (
                f"`ferrule inspect {self.base}` shows the base's modules.{trained} Other names for "
                "the same modules are a weight adapter plugin, as for models."
            )
        if self.refused and not (self.incomplete or self.untouched):
            return f"`ferrule merge {self.base} {self.adapter} OUT` makes one model of both."
        return "The save may be incomplete, or adapter_config.json was changed: save it again."


_KINDS = (
    ("not_taken", "tensors that no module of the base takes"),
    ("broken", "tensors with infinite values or NaN"),
    ("misshaped", "tensors of another shape"),
    ("incomplete", "modules that lack a part"),
    ("untouched", "targets in adapter_config.json that differ from the tensors"),
    ("refused", "changes that can only be merged"),
)


def refuse(accounting: Accounting, num_modules: int) -> None:
    """Raises LoadError for what does not fit, or if nothing is left to change."""
    if not accounting.is_exact:
        raise accounting.error()
    if not num_modules:
        raise LoadError(
            f"The adapter {accounting.adapter} changes nothing of {accounting.base}: none of its "
            "tensors differs from the base's own.",
            hint="Serve the base by itself, or look for the adapter's real weights.",
        )
