"""``ferrule inspect``."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import msgspec
import typer

from ferrule.cli.engine_flags import engine_flags, flag
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
BaseModel = Annotated[
    str | None,
    flag(
        "--base",
        help="MODEL is a LoRA adapter, and this is its base model. Without it: the one that the "
        "adapter names.",
    ),
]


@takes(options=engine_flags)
def inspect(
    options: EngineOptions,
    context: Context = None,
    base: BaseModel = None,
    as_json: AsJson = False,
) -> None:
    """Explain how a checkpoint would be served, or what a LoRA adapter changes of its base.

    The exit status is 1 if it could not be loaded.
    """
    # Collecting while torch is imported would cost a tenth of the whole command.
    gc.disable()
    # torch costs a second to import, which --help need not wait for.
    from ferrule.checkpoint.adapter_base import is_adapter
    from ferrule.cli.adapter_view import show_adapter
    from ferrule.cli.inspect_view import show
    from ferrule.inspection import inspect_adapter, inspect_checkpoint
    from ferrule.lora import AdapterReport

    gc.enable()
    with start_display(is_transient=True) as display:

        def progress(stage: str, fraction: float | None, detail: str) -> None:
            display.report(Progress(stage, fraction, detail))

        if base is not None or is_adapter(options.model, progress):
            report = inspect_adapter(options, base=base, progress=progress)
        else:
            report = inspect_checkpoint(options, context=context, progress=progress)
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2)
        sys.stdout.write(text.decode() + "\n")
    elif isinstance(report, AdapterReport):
        show_adapter(report)
    else:
        show(report)
    if not isinstance(report, AdapterReport) and report.problems:
        if not as_json:
            show_error(LoadError(report.problems, hint=report.hint))
        raise typer.Exit(1)
