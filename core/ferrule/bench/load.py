"""Sends requests in one of two ways: as clients that wait, or as arrivals that do not."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ferrule.bench.measurement import BenchRequest, Failure, Outcome, Send
from ferrule.bench.tally import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What became of some requests.

    Attributes:
        outcomes: In the order in which they ended.
        seconds: From the first one's begin to the last one's end.
    """

    outcomes: list[Outcome]
    seconds: float


async def closed_loop(
    send: Send, requests: Sequence[BenchRequest], concurrency: int, tally: Tally
) -> Run:
    """Keeps a number of requests running: where one ends, the next begins.

    Args:
        send: Sends one and measures it.
        requests: In this order.
        concurrency: How many run at a time.
        tally: Counts them.
    """
    outcomes: list[Outcome] = []
    remaining = iter(requests)

    async def client() -> None:
        for request in remaining:
            outcomes.append(await _counted(send, request, tally))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, len(requests))):
            clients.create_task(client())
    return Run(outcomes=outcomes, seconds=time.perf_counter() - start)


async def open_loop(
    send: Send, requests: Sequence[BenchRequest], arrivals: Sequence[float], tally: Tally
) -> Run:
    """Sends each request at its time, whether others have ended or not.

    Args:
        send: Sends one and measures it.
        requests: In this order.
        arrivals: Seconds after the begin, one for each request.
        tally: Counts them.
    """
    outcomes: list[Outcome] = []

    async def one(request: BenchRequest) -> None:
        outcomes.append(await _counted(send, request, tally))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as running:
        for request, arrival in zip(requests, arrivals, strict=True):
            await asyncio.sleep(arrival - (time.perf_counter() - start))
            running.create_task(one(request))
    return Run(outcomes=outcomes, seconds=time.perf_counter() - start)


def poisson_arrivals(rate: float, num: int, seed: int) -> list[float]:
    """Times of a Poisson process, the first one at 0: gaps are exponential with mean 1 / rate.

    Args:
        rate: Arrivals in a second, on average.
        num: How many.
        seed: Of the draws.
    """
    # Apart from the prompts' draws, so that long prompts do not always come late.
    rng = random.Random(f"arrivals {seed}")
    gaps = (rng.expovariate(rate) for _ in range(num - 1))
    return list(itertools.accumulate(gaps, initial=0.0))


async def _counted(send: Send, request: BenchRequest, tally: Tally) -> Outcome:
    outcome = await send(request, tally)
    tally.add_request(is_failed=isinstance(outcome, Failure))
    return outcome
