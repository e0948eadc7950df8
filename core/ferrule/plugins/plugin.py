"""One plugin, what it offers, and where two of them collide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.errors import PluginError

Offer = Architecture | WeightAdapter


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """One plugin and what it offers.

    Attributes:
        distribution: Its distribution's name, or ``file FILE.py``.
        version: The distribution's version; empty for a file.
        entry_point: Its entry point's name, or the file's stem.
        architectures: Offered model families.
        weight_adapters: Offered dialects and wrappers.
    """

    distribution: str
    version: str = ""
    entry_point: str = ""
    architectures: tuple[Architecture, ...] = ()
    weight_adapters: tuple[WeightAdapter, ...] = ()

    @property
    def origin(self) -> str:
        """Distribution and version, as messages name them."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def offers(self) -> Iterator[Offer]:
        """Everything it offers."""
        yield from self.architectures
        yield from self.weight_adapters


def names_taken_twice(plugins: Iterable[Plugin]) -> list[PluginError]:
    """One error for each name that two plugins, or one plugin twice, offer for the same thing."""
    errors: list[PluginError] = []
    first: dict[tuple[str, str], Plugin] = {}
    for plugin in plugins:
        for offer in plugin.offers:
            kind = _KINDS[type(offer)]
            other = first.get((kind, offer.name))
            if other is None:
                first[kind, offer.name] = plugin
            else:
                errors.append(_taken_twice(kind, offer.name, other, plugin))
    return errors


_KINDS: Mapping[type, str] = {Architecture: "architecture", WeightAdapter: "weight adapter"}


def _taken_twice(kind: str, name: str, first: Plugin, second: Plugin) -> PluginError:
    return PluginError(
        f"Two plugins offer the {kind} {name!r}: {first.origin} (entry point "
        f"{first.entry_point!r}) and {second.origin} (entry point {second.entry_point!r}).",
        hint="Uninstall one of them, or ask an author to rename; order never decides.",
    )
