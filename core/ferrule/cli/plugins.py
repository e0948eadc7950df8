"""``ferrule plugins``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from ferrule.cli.console import stdout
from ferrule.cli.engine_flags import PluginFiles
from ferrule.cli.errors import show_error
from ferrule.plugins import Discovery, Plugin, discover

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


def plugins(plugin_files: PluginFiles = None, as_json: AsJson = False) -> None:
    """List the installed plugins, what each one offers, and what is wrong with any of them."""
    discovery = discover(plugin_files or ())
    if as_json:
        sys.stdout.write(json.dumps(_as_json(discovery), indent=2, ensure_ascii=False) + "\n")
    else:
        stdout().print(_table(discovery))
        for error in discovery.errors:
            show_error(error)
    if discovery.errors:
        raise typer.Exit(1)


def _as_json(discovery: Discovery) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "distribution": plugin.distribution,
                "version": plugin.version,
                "entry_point": plugin.entry_point,
                **_offers(plugin),
            }
            for plugin in discovery.plugins
        ],
        "errors": [{"message": each.message, "hint": each.hint} for each in discovery.errors],
    }


def _table(discovery: Discovery) -> Table:
    table = Table("distribution", "version", "entry point", "offers", box=None, pad_edge=False)
    for plugin in discovery.plugins:
        offers = [
            f"{kind.replace('_', ' ')}: {', '.join(names)}"
            for kind, names in _offers(plugin).items()
            if names
        ]
        table.add_row(
            plugin.distribution, plugin.version, plugin.entry_point, "\n".join(offers) or "nothing"
        )
    return table


def _offers(plugin: Plugin) -> dict[str, list[str]]:
    """Names by kind; wrappers, which apply by themselves, apart from adapters to choose from."""
    adapters = plugin.weight_adapters
    return {
        "architectures": [each.name for each in plugin.architectures],
        "weight_adapters": [each.name for each in adapters if each.kind == "dialect"],
        "wrappers": [each.name for each in adapters if each.kind == "wrapper"],
    }
