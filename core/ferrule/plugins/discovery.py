"""Finds plugins, loads them and asks each hook for what it offers."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

import pluggy

from ferrule import hookspecs
from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.errors import PluginError
from ferrule.plugins.plugin import Plugin, names_taken_twice

_HOOKS = ("architectures", "weight_adapters")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """All that was found, good and bad; for ``ferrule plugins``.

    Attributes:
        plugins: Those that could be loaded.
        errors: What is wrong with the others, and names that are offered twice.
    """

    plugins: tuple[Plugin, ...]
    errors: tuple[PluginError, ...]


def discover(extra_files: Sequence[Path] = ()) -> Discovery:
    """Loads every entry point of the group ``ferrule``, and plugin files.

    Args:
        extra_files: Python files to treat like installed plugins.

    Returns:
        Broken plugins as errors that name their distributions; nothing is raised for them.
    """
    plugins: list[Plugin] = []
    errors: list[PluginError] = []
    for load in (*_installed(), *(partial(_load_file, path) for path in extra_files)):
        try:
            plugins.append(load())
        except PluginError as error:
            errors.append(error)
    return Discovery(plugins=tuple(plugins), errors=(*errors, *names_taken_twice(plugins)))


def _installed() -> Iterator[Callable[[], Plugin]]:
    found = entry_points(group=hookspecs.GROUP)
    for entry_point in sorted(found, key=lambda each: (_unasked(each).origin, each.name)):
        yield partial(_load_entry_point, entry_point)


def _unasked(entry_point: EntryPoint) -> Plugin:
    distribution = entry_point.dist
    return Plugin(
        distribution=distribution.name if distribution else "an unnamed distribution",
        version=distribution.version if distribution else "",
        entry_point=entry_point.name,
    )


# pluggy's own loader lets an import error through without naming the distribution.
def _load_entry_point(entry_point: EntryPoint) -> Plugin:
    plugin = _unasked(entry_point)
    try:
        module = entry_point.load()
    except Exception as error:
        raise PluginError(
            f"The plugin {entry_point.name!r} ({entry_point.value}) of {plugin.origin} cannot be "
            f"imported: {type(error).__name__}: {error}",
            hint=f"Repair it, or remove it: pip uninstall {plugin.distribution}",
        ) from error
    return _asked(module, plugin)


def _load_file(path: Path) -> Plugin:
    plugin = Plugin(distribution=f"file {path}", entry_point=path.stem)
    if not path.is_file():
        raise PluginError(f"--plugin {path}: there is no such file.")
    # The digest keeps two files of one name apart.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"ferrule_plugin_file_{digest}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"--plugin {path}: expected a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look a module up by its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise PluginError(
            f"The plugin {plugin.origin} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return _asked(module, plugin)


def _asked(module: object, plugin: Plugin) -> Plugin:
    """Registers a module with pluggy and calls its hooks."""
    # A manager for each plugin: one plugin's mistake hides no other's.
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    who = f"The plugin {plugin.entry_point!r} of {plugin.origin}"
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{who} has a hook of another signature: {error}") from error
    callers = manager.get_hookcallers(module) or []
    if unknown := [caller.name for caller in callers if not caller.has_spec()]:
        raise _unknown_hook(unknown[0], who)
    if not callers:
        raise PluginError(
            f"{who} offers nothing.",
            hint=f"Mark a function named {' or '.join(_HOOKS)} with @ferrule.hookimpl.",
        )
    return replace(
        plugin,
        architectures=_offers(manager, "architectures", Architecture, who),
        weight_adapters=_offers(manager, "weight_adapters", WeightAdapter, who),
    )


def _unknown_hook(name: str, who: str) -> PluginError:
    nearest = get_close_matches(name, _HOOKS, n=1, cutoff=0.0)[0]
    return PluginError(
        f"{who} implements a hook {name!r}, which does not exist; the nearest is {nearest!r}.",
        hint=f"The hooks are {', '.join(_HOOKS)}.",
    )


def _offers(
    manager: pluggy.PluginManager, hook: str, expected: type[_T], who: str
) -> tuple[_T, ...]:
    offers: list[_T] = []
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            returned = implementation.function()
            items = list(returned) if isinstance(returned, Iterable) else [returned]
        except Exception as error:
            raise PluginError(
                f"{who} failed in its hook {hook!r}: {type(error).__name__}: {error}"
            ) from error
        if wrong := [item for item in items if not isinstance(item, expected)]:
            raise PluginError(
                f"{who} returned {wrong[0]!r} from its hook {hook!r}; expected an iterable of "
                f"{expected.__name__}."
            )
        offers += items
    return tuple(offers)
