"""Numbers of one architecture in a GGUF's metadata; knows what has been read."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import numpy as np

from ferrule import Checkpoint
from ferrule.errors import ConfigError

_MISSING = object()
# Factors that leave what they multiply as it is.
_OFF_AT_ONE = frozenset(
    (
        "embedding_scale",
        "logit_scale",
        "residual_scale",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_ext_factor",
    )
)


class Metadata:
    """The keys ``{architecture}.*`` of a GGUF.

    Args:
        architecture: The ``general.architecture`` that is expected.
        checkpoint: A GGUF file.

    Raises:
        ConfigError: The file says another architecture.
    """

    def __init__(self, architecture: str, checkpoint: Checkpoint) -> None:
        found = checkpoint.config.get("general.architecture")
        if found != architecture:
            raise ConfigError(
                f"general.architecture of {checkpoint.location} is {found!r}; this weight adapter "
                f"reads GGUF files of {architecture!r}."
            )
        self.architecture = architecture
        self._location = checkpoint.location
        self._values = {**checkpoint.metadata, **checkpoint.config}
        self._read: set[str] = set()

    def key(self, name: str) -> str:
        """The full key of a name, for messages."""
        return f"{self.architecture}.{name}"

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number; a value by layer must be the same for every layer.

        Raises:
            ConfigError: It is missing and has no default, or is something else.
        """
        value = self._scalar(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.key(name)} is {value!r}; expected a whole number.")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, as the decimal that was meant: the file's 32 bits hold 1e-05 inexactly.

        Raises:
            ConfigError: It is missing and has no default, or is something else.
        """
        value = self._scalar(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.key(name)} is {value!r}; expected a number.")
        return float(str(np.float32(value)))

    def text(self, name: str, default: str) -> str:
        """A word; empty counts as missing."""
        return str(self._scalar(name, default) or default)

    def refuse_unless(self, name: str, expected: object, meaning: str) -> None:
        """Raises ConfigError if the key is there and says something else."""
        value = self._scalar(name, expected)
        if value != expected:
            raise ConfigError(
                f"{self.key(name)} of {self._location} is {value!r}; expected {expected!r}, "
                f"{meaning}."
            )

    def refuse_unread(self, harmless: Collection[str]) -> None:
        """Raises ConfigError for keys that nothing has read, unless they are off or harmless."""
        prefix = f"{self.architecture}."
        unread = sorted(
            key
            for key, value in self._values.items()
            if key.startswith(prefix)
            and (name := key.removeprefix(prefix)) not in self._read
            and name not in harmless
            and not _is_off(name, value)
        )
        if unread:
            listed = ", ".join(f"{key} = {str(self._values[key])[:60]}" for key in unread)
            raise ConfigError(
                f"The metadata of {self._location} has keys that may change the arithmetic and "
                f"that are not understood: {listed}.",
                hint="The model needs a weight adapter and an architecture that know these keys.",
            )

    def _scalar(self, name: str, default: object) -> object:
        self._read.add(name)
        value = self._values.get(self.key(name), _MISSING)
        if value is _MISSING or value is None:
            if default is None:
                raise ConfigError(f"The metadata of {self._location} lacks {self.key(name)}.")
            return default
        if not isinstance(value, list):
            return value
        by_layer = cast("list[object]", value)
        if any(each != by_layer[0] for each in by_layer) or not by_layer:
            raise ConfigError(
                f"{self.key(name)} of {self._location} differs by layer: {str(by_layer)[:100]}; "
                "all layers of this architecture are alike."
            )
        return by_layer[0]


def _is_off(name: str, value: object) -> bool:
    """Whether a key says what holds without it: 0 is "not set" to llama.cpp, and so is empty."""
    if isinstance(value, list):
        return all(_is_off(name, each) for each in cast("list[object]", value))
    return value in (0, "") or (name in _OFF_AT_ONE and value == 1)
