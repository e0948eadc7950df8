"""The command ``ferrule`` and its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from ferrule import __version__
from ferrule.cli.bench import bench
from ferrule.cli.demo import demo
from ferrule.cli.errors import Commands
from ferrule.cli.generate import generate
from ferrule.cli.inspect import inspect
from ferrule.cli.lora_flags import CommandWithAdapters
from ferrule.cli.merge import merge
from ferrule.cli.plugins import plugins
from ferrule.cli.quantize import quantize
from ferrule.cli.serve import serve
from ferrule.cli.warm_cache import warm_cache

_ENVIRONMENT = (
    "Flags can be set in the environment too: FERRULE_MAX_LENGTH=4096 is --max-length 4096. "
    "FERRULE_DEBUG=1 shows where an error was raised."
)

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, generate, bench, demo, inspect, merge, quantize, warm_cache, plugins):
    app.command(epilog=_ENVIRONMENT, cls=CommandWithAdapters)(command)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"ferrule {__version__}")
        raise typer.Exit


@app.callback(epilog=_ENVIRONMENT)
def ferrule(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Serve fine-tuned Llama, Mistral and Qwen checkpoints behind an OpenAI-compatible API."""
