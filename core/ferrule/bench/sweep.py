"""Measures the points of a sweep, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from ferrule.bench.load import Run, closed_loop, open_loop, poisson_arrivals
from ferrule.bench.measurement import BenchRequest, Send
from ferrule.bench.prompts import Prompts
from ferrule.bench.report import Point, Report, summarise
from ferrule.bench.settings import Load, Settings
from ferrule.bench.tally import Tally
from ferrule.bench.workload import Dataset
from ferrule.engine.messages import Progress

_TICK_SECONDS = 0.25
# Of a prompt's tokens, beyond its shared prefix: blocks are shared whole, so a few are no surprise.
_CACHED_BY_CHANCE = 0.05


async def sweep(
    send: Send, prompts: Prompts, report: Report, show: Callable[[Progress], None]
) -> None:
    """Measures every load of a report's settings and adds the points and notes to it.

    A load under which no request succeeds is the last one.

    Args:
        send: Sends one request and measures it.
        prompts: What to send.
        report: Has the settings and gets the results.
        show: Told now and then how far it is.
    """
    settings = report.settings
    models = itertools.cycle(settings.models or (report.model,))
    await _warm_up(send, _requests(prompts, models, settings.warmup), settings, show)
    try:
        for number, load in enumerate(settings.loads):
            requests = _requests(prompts, models, load.num_requests)
            point = summarise(load, await _measure(send, requests, load, settings.seed, show))
            report.points.append(point)
            if point.failed == point.requests and (rest := settings.loads[number + 1 :]):
                left_out = ", ".join(each.name for each in rest)
                report.notes.append(f"left out, as no request succeeded before: {left_out}")
                break
    finally:
        report.notes += prompts.notes
        report.notes += _cache_notes(report.points, settings)


def _requests(prompts: Prompts, models: Iterator[str], num: int) -> list[BenchRequest]:
    return [BenchRequest(model=next(models), prompt=each) for each in prompts.take(num)]


async def _warm_up(
    send: Send,
    requests: Sequence[BenchRequest],
    settings: Settings,
    show: Callable[[Progress], None],
) -> None:
    """Runs some requests before the first point; a failure shows again there."""
    if requests:
        tally = Tally("warming up", len(requests))
        concurrency = max(each.concurrency or len(requests) for each in settings.loads)
        async with _shown(tally, show):
            await closed_loop(send, requests, concurrency, tally)


async def _measure(
    send: Send,
    requests: Sequence[BenchRequest],
    load: Load,
    seed: int,
    show: Callable[[Progress], None],
) -> Run:
    tally = Tally(load.name, len(requests))
    async with _shown(tally, show):
        if load.rate is None:
            assert load.concurrency is not None
            return await closed_loop(send, requests, load.concurrency, tally)
        arrivals = poisson_arrivals(load.rate, len(requests), seed)
        return await open_loop(send, requests, arrivals, tally)


@contextlib.asynccontextmanager
async def _shown(tally: Tally, show: Callable[[Progress], None]) -> AsyncGenerator[None]:
    async def tick() -> None:
        while True:
            show(tally.progress())
            await asyncio.sleep(_TICK_SECONDS)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        show(tally.progress())


def _cache_notes(points: Sequence[Point], settings: Settings) -> list[str]:
    """Says so where the server knew prompts already that were meant to be new to it."""
    workload = settings.workload
    if isinstance(workload, Dataset):
        return []
    prompt_tokens = sum(each.prompt_tokens for each in points)
    shared = workload.shared_prefix * sum(each.requests - each.failed for each in points)
    surprising = sum(each.cached_tokens for each in points) - min(shared, prompt_tokens)
    if surprising <= _CACHED_BY_CHANCE * prompt_tokens:
        return []
    percent = 100 * surprising / prompt_tokens
    return [
        f"{percent:.0f} % of the prompts' tokens were in the server's prefix cache beyond the "
        "shared prefix: it has seen this --seed before, so prefill looks faster than it is"
    ]
