"""Measures a server, a checkpoint behind a server of its own, or one in this process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from ferrule.bench.child import serving
from ferrule.bench.prompts import Prompts, open_prompts
from ferrule.bench.report import Report
from ferrule.bench.signals import run_until_signal
from ferrule.bench.sweep import sweep
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError

Show = Callable[[Progress], None]


def measure(report: Report, engine: EngineOptions | None, show: Show) -> None:
    """Makes a measurement; what was measured before an error or Ctrl-C is in the report too.

    Args:
        report: Its mode says where; gets the points.
        engine: The checkpoint and how to run it; None: a server runs already.
        show: Told how far it is.

    Raises:
        FerruleError: The server or the checkpoint cannot be measured.
    """
    prompts = open_prompts(report.settings.workload, report.settings.seed)
    if report.mode == "in-process":
        assert engine is not None
        _measure_in_process(report, engine, prompts, show)
        return
    need_aiohttp()
    if engine is None:
        _run(_measure_url(report, report.target, prompts, show))
        return
    with serving(engine, show) as url:
        _run(_measure_url(report, url, prompts, show))


def need_aiohttp() -> None:
    """Checks for the one library that measuring over HTTP needs and serving does not.

    Raises:
        FerruleError: It is not installed.
    """
    if importlib.util.find_spec("aiohttp") is None:
        raise FerruleError(
            "measuring a server needs aiohttp, which is not installed",
            hint="Run pip install 'ferrule[bench]', or measure a checkpoint with --in-process.",
        )


async def _measure_url(report: Report, url: str, prompts: Prompts, show: Show) -> None:
    from ferrule.bench.client import Client

    settings = report.settings
    async with Client(url, temperature=settings.temperature, timeout=settings.timeout) as client:
        report.model = report.model or await client.first_model()
        await sweep(client.send, prompts, report, show)


def _measure_in_process(
    report: Report, engine: EngineOptions, prompts: Prompts, show: Show
) -> None:
    # torch takes seconds to import, and only here it is needed.
    from ferrule.bench.in_process import InProcess
    from ferrule.llm import LLM

    fields = msgspec.structs.asdict(engine)
    llm = LLM(fields.pop("model"), report=show, **fields)
    report.model = engine.model
    target = InProcess(llm, temperature=report.settings.temperature)
    _run(sweep(target.send, prompts, report, show))


def _run(measuring: Coroutine[Any, Any, None]) -> None:
    try:
        run_until_signal(measuring)
    except ExceptionGroup as group:
        # Of requests that ran together; what ended the first one ended the others.
        raise group.exceptions[0] from group
