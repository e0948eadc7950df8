"""``ferrule inspect``."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import msgspec
import typer

from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.errors import show_error
from ferrule.cli.flag_groups import takes
from ferrule.cli.plugins import AsJson
from ferrule.cli.progress import start_display
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import LoadError

Context = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens to reckon the KV cache for. Without it: the model's own context."
    ),
]


@takes(options=engine_flags)
def inspect(options: EngineOptions, context: Context = None, as_json: AsJson = False) -> None:
    """Explain how a checkpoint would be served: reads headers, loads nothing.

    The exit status is 1 if it could not be loaded.
    """
    # Collecting while torch is imported would cost a tenth of the whole command.
    gc.disable()
    # torch costs a second to import, which --help need not wait for.
    from ferrule.cli.inspect_view import show
    from ferrule.inspection import inspect_checkpoint

    gc.enable()
    with start_display(is_transient=True) as display:
        report = inspect_checkpoint(
            options,
            context=context,
            progress=lambda stage, fraction, detail: display.report(
                Progress(stage, fraction, detail)
            ),
        )
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2)
        sys.stdout.write(text.decode() + "\n")
    else:
        show(report)
    if report.problems:
        if not as_json:
            show_error(LoadError(report.problems, hint=report.hint))
        raise typer.Exit(1)
