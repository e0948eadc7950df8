"""Patterns of dotted tensor names, and names made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_PLACEHOLDER = re.compile(r"\{([a-z_]+)(\*?)\}")


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A dotted name in which ``{n}`` is one component and ``{rest*}`` any number, none included.

    A placeholder takes whole components; a ``{rest*}`` that takes none takes its dot along, so
    ``{rest*}.inv_freq`` fits ``inv_freq`` as well as ``model.rotary.inv_freq``.

    Attributes:
        text: As written.

    Raises:
        ValueError: A component is empty, mixes braces with other text, or repeats a placeholder.
    """

    text: str

    def __post_init__(self) -> None:
        _compiled(self.text)

    @property
    def placeholders(self) -> frozenset[str]:
        """As written, ``{n}`` and ``{rest*}`` apart."""
        return frozenset(part for part in self.text.split(".") if _PLACEHOLDER.fullmatch(part))

    def fit(self, name: str) -> Mapping[str, str] | None:
        """What each placeholder stands for in a name (by its text), or None if it does not fit."""
        found = _compiled(self.text).fullmatch(name + ".")
        if found is None:
            return None
        return {part: found[_group(part)].rstrip(".") for part in self.placeholders}

    def fill(self, values: Mapping[str, str]) -> str:
        """The name that this pattern gives for the values of another one's placeholders."""
        parts = (values.get(part, part) for part in self.text.split("."))
        return ".".join(part for part in parts if part)

    def check_filled_by(self, other: NamePattern) -> None:
        """Raises ValueError if this pattern has a placeholder that the other one lacks."""
        if unknown := sorted(self.placeholders - other.placeholders):
            raise ValueError(
                f"{self.text!r} uses {', '.join(unknown)}, which {other.text!r} does not have"
            )


@lru_cache(maxsize=4096)
def _compiled(text: str) -> re.Pattern[str]:
    """An expression for the name with a dot after *every* component, the last one included."""
    return re.compile("".join(_component(part, text) for part in text.split(".")))


def _component(part: str, text: str) -> str:
    placeholder = _PLACEHOLDER.fullmatch(part)
    if placeholder is None:
        if not part or "{" in part or "}" in part:
            raise ValueError(
                f"{text!r} is not a name pattern: {part!r} is neither plain text nor a "
                "placeholder such as {n} or {rest*}"
            )
        return re.escape(part) + r"\."
    if text.split(".").count(part) > 1:
        raise ValueError(f"{text!r} is not a name pattern: it has {part} twice")
    inner = r"(?:[^.]+\.)*" if placeholder[2] else r"[^.]+\."
    return f"(?P<{_group(part)}>{inner})"


def _group(part: str) -> str:
    return part.strip("{}").replace("*", "0")
