"""The plugin door: what is installed, checked, and asked for what it offers."""

from ferrule.plugins.discovery import Discovery, discover
from ferrule.plugins.plugin import Plugin
from ferrule.plugins.plugins import Plugins

__all__ = ["Discovery", "Plugin", "Plugins", "discover"]
