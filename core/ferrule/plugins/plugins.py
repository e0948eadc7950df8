"""The plugins that one process works with."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.errors import FerruleError, PluginError
from ferrule.plugins.discovery import discover
from ferrule.plugins.plugin import Offer, Plugin, names_taken_twice


@dataclass(frozen=True, slots=True)
class Plugins:
    """Plugins whose names are unique.

    Args:
        plugins: In any order; it decides nothing.

    Raises:
        PluginError: Two of them offer the same name.
    """

    plugins: tuple[Plugin, ...]

    def __post_init__(self) -> None:
        _raise_all(names_taken_twice(self.plugins))

    @classmethod
    def installed(cls, extra_files: Sequence[Path] = ()) -> Plugins:
        """Every installed plugin, and those of some files.

        Args:
            extra_files: Python files to treat like installed plugins.

        Raises:
            PluginError: Any of them is broken, or two offer the same name.
        """
        discovery = discover(extra_files)
        _raise_all(discovery.errors)
        return cls(discovery.plugins)

    @property
    def architectures(self) -> Mapping[str, Architecture]:
        """All that is offered, by name, sorted."""
        offers = (offer for plugin in self.plugins for offer in plugin.architectures)
        return {offer.name: offer for offer in sorted(offers, key=lambda offer: offer.name)}

    @property
    def weight_adapters(self) -> Mapping[str, WeightAdapter]:
        """All that is offered, by name, sorted."""
        offers = (offer for plugin in self.plugins for offer in plugin.weight_adapters)
        return {offer.name: offer for offer in sorted(offers, key=lambda offer: offer.name)}

    def origin(self, offer: Offer) -> str:
        """Distribution and version that an offer of these plugins comes from."""
        return next(p.origin for p in self.plugins if any(offer is other for other in p.offers))

    @contextmanager
    def calling(self, offer: Offer, function: str) -> Generator[None]:
        """Runs a plugin's function; what it raises by mistake names its distribution.

        Args:
            offer: Whose function it is.
            function: Its name, for the message.

        Raises:
            PluginError: Anything but a FerruleError was raised inside.
        """
        try:
            yield
        except FerruleError:
            raise
        except Exception as error:
            raise PluginError(
                f"{offer.name!r} of {self.origin(offer)} failed in {function}: "
                f"{type(error).__name__}: {error}",
                hint="This is a mistake in the plugin; report it to its author.",
            ) from error


def _raise_all(errors: Sequence[PluginError]) -> None:
    """Raises one error as it is, several as one that lists them."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "\n".join(f"- {error.message}" for error in errors)
        raise PluginError(
            f"{len(errors)} plugin errors:\n{listed}", hint="`ferrule plugins` lists all plugins."
        )
