"""The hooks that a plugin may implement; each returns values and registers nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture

GROUP = "ferrule"
"""Name of the entry-point group, and of pluggy's project."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def architectures() -> Iterable[Architecture]:  # pyright: ignore[reportReturnType]
    """The model architectures that this plugin can build."""


@hookspec
def weight_adapters() -> Iterable[WeightAdapter]:  # pyright: ignore[reportReturnType]
    """The weight adapters that this plugin offers: naming dialects and wrappers."""
