"""How an error ends a command: what was wrong and the next step, without a traceback."""

from __future__ import annotations

import logging
import os
import traceback
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from ferrule.cli.console import stderr
from ferrule.errors import FerruleError


class Commands(TyperGroup):
    """Subcommands whose errors are shown, not raised."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the subcommand; its exit status is 1 after an error of ours, 130 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except FerruleError as error:
            if _wants_traceback():
                traceback.print_exc()
            show_error(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


def show_error(error: FerruleError) -> None:
    """Writes an error and its hint to stderr."""
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        console.print(Text.assemble(("hint: ", "bold cyan"), error.hint), soft_wrap=True)


def _wants_traceback() -> bool:
    asked = os.environ.get("FERRULE_DEBUG", "0") not in ("", "0")
    return asked or logging.getLogger("ferrule").isEnabledFor(logging.DEBUG)
