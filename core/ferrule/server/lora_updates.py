"""Which adapters clients may load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ferrule.checkpoint.location import HubFile, HubRepo, find_location, find_weight_path
from ferrule.errors import FerruleError, RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraUpdates:
    """What clients may load.

    Attributes:
        roots: Directories, from anywhere below which adapters may be loaded.
        organisations: Of the Hub, whose repositories may be loaded.
    """

    roots: tuple[Path, ...] = ()
    organisations: tuple[str, ...] = ()

    def allowed(self, location: str) -> str:
        """The location, a path in full.

        Raises:
            RequestError: It is none of those that may be loaded, or there is nothing.
        """
        try:
            is_file = location.endswith(".gguf")
            found = find_weight_path(location, Path()) if is_file else find_location(location)
        except FerruleError as error:
            raise RequestError(error.message, param="lora_path", hint=error.hint) from error
        if isinstance(found, HubRepo | HubFile):
            repo = found.repo if isinstance(found, HubFile) else found
            if repo.name.partition("/")[0] not in self.organisations:
                raise self._refused(location)
            return location
        path = found.resolve()
        # A link within the directory may lead out of it as well.
        inside = [path, *(each.resolve() for each in (path.iterdir() if path.is_dir() else ()))]
        if not all(self._is_below_a_root(each) for each in inside):
            raise self._refused(location)
        return str(path)

    def _is_below_a_root(self, path: Path) -> bool:
        return any(path.is_relative_to(root.resolve()) for root in self.roots)

    def _refused(self, location: str) -> RequestError:
        roots = ", ".join(map(str, self.roots)) or "no directory"
        organisations = ", ".join(self.organisations) or "no organisation of the Hub"
        return RequestError(
            f"{location} may not be loaded: this server takes adapters from {roots} and from "
            f"{organisations}",
            param="lora_path",
            code="path_not_allowed",
            hint="Start it with --lora-root DIR or --lora-hub-org ORG to allow more.",
        )
