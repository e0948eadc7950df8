"""``ferrule serve``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from ferrule.cli.engine_flags import engine_flags, flag
from ferrule.cli.engine_start import launch_engine
from ferrule.cli.flag_groups import takes
from ferrule.cli.lora_flags import LoraOptions, lora_flags
from ferrule.cli.server_flags import ServerOptions, server_flags
from ferrule.engine.options import EngineOptions

ServedModelName = Annotated[
    str | None,
    flag(
        "--served-model-name",
        panel="Server",
        help="What requests call the model. Without it: the repository's or directory's name.",
    ),
]
ChatTemplate = Annotated[
    Path | None,
    flag(
        "--chat-template",
        panel="Model",
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="A template to use in place of the checkpoint's own: Jinja, or JSON that holds it.",
    ),
]


@takes(options=engine_flags, lora=lora_flags, server=server_flags)
def serve(
    options: EngineOptions,
    lora: LoraOptions,
    server: ServerOptions,
    served_model_name: ServedModelName = None,
    chat_template: ChatTemplate = None,
) -> None:
    """Serve a checkpoint behind an OpenAI-compatible API."""
    # Before anything else: torch takes seconds to import, in a process of its own.
    with closing(launch_engine(options.devices)) as launch:
        # The server's libraries cost half a second, which --help need not wait for.
        from ferrule.cli.serving import serve_model

        status = serve_model(
            launch,
            lora.added_to(options),
            server,
            name=served_model_name,
            chat_template=chat_template,
            lora_updates=lora.updates,
        )
    raise typer.Exit(status)
