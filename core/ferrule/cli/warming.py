"""Starts an engine once, so that what it compiles is on disk."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from ferrule.bench.signals import run_until_signal
from ferrule.cli.engine_start import launch_engine
from ferrule.cli.progress import Display, start_display
from ferrule.cli.serving import open_text_side, start_engine
from ferrule.engine.client import EngineClient
from ferrule.engine.launch import EngineLaunch
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions


@dataclass(kw_only=True, slots=True)
class Start:
    """A start that came to its end.

    Attributes:
        device: Where the engine ran, such as "cuda:0".
        seconds: Until it was ready.
    """

    device: str = ""
    seconds: float = 0.0


def start_once(options: EngineOptions) -> Start:
    """Starts the engine as a server does and ends it when it is ready.

    Args:
        options: Of the engine.

    Raises:
        FerruleError: The checkpoint, the options or the engine are at fault.
        SystemExit: A signal came; like Ctrl-C it ends the engine first.
    """
    begin = time.monotonic()
    start = Start()
    with (
        closing(launch_engine(options.devices)) as launch,
        start_display(is_transient=True) as display,
    ):
        _, options = open_text_side(options, display)
        run_until_signal(_run(launch, options, display, begin, start))
    return start


async def _run(
    launch: EngineLaunch, options: EngineOptions, display: Display, begin: float, start: Start
) -> None:
    engine = EngineClient()
    try:
        info = await start_engine(engine, launch, options, display)
        start.device, start.seconds = info.device, time.monotonic() - begin
        display.report(Progress("ending the engine"))
    finally:
        await engine.stop()
