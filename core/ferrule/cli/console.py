"""Where people read, and how sizes are written for them."""

from __future__ import annotations

import sys

from rich.console import Console

# Of tables in files and pipes; plain lines are never folded there.
_FILE_WIDTH = 160
_UNITS = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def stdout() -> Console:
    """For what a command was asked for."""
    return _console(is_stderr=False)


def stderr() -> Console:
    """For everything that is said beside it."""
    return _console(is_stderr=True)


def size(num_bytes: int) -> str:
    """Bytes for people, such as ``257 MiB``."""
    for unit, scale in _UNITS:
        if num_bytes >= scale:
            value = num_bytes / scale
            return f"{value:.3g} {unit}" if value < 999 else f"{value:.0f} {unit}"
    return f"{num_bytes} B"


def _console(*, is_stderr: bool) -> Console:
    is_terminal = (sys.stderr if is_stderr else sys.stdout).isatty()
    return Console(
        stderr=is_stderr,
        width=None if is_terminal else _FILE_WIDTH,
        highlight=False,
        emoji=False,
        markup=False,
    )
