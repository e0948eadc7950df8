from __future__ import annotations

import asyncio
import itertools
import statistics
import time

import pytest

from ferrule.bench.load import closed_loop, open_loop, poisson_arrivals
from ferrule.bench.measurement import BenchRequest, Failure
from ferrule.bench.prompts import Prompt
from ferrule.bench.tally import Tally

REQUESTS = [
    BenchRequest(model=str(number), prompt=Prompt(text=[1], max_tokens=1)) for number in range(12)
]


class Sender:
    """Takes its time for each request and remembers when it came."""

    def __init__(self, seconds=0.01):
        self.models, self.starts = [], []
        self.num_running = self.most = 0
        self._seconds = seconds

    async def send(self, request, tally):
        self.models.append(request.model)
        self.starts.append(time.perf_counter())
        self.num_running += 1
        self.most = max(self.most, self.num_running)
        await asyncio.sleep(self._seconds)
        self.num_running -= 1
        return Failure(request.model)


@pytest.fixture
def tally():
    return Tally("a point", len(REQUESTS))


@pytest.mark.parametrize("concurrency", [1, 5, 12, 40])
async def test_a_closed_loop_keeps_so_many_running(tally, concurrency):
    sender = Sender()
    run = await closed_loop(sender.send, REQUESTS, concurrency, tally)
    assert sender.most == min(concurrency, 12)
    assert sender.models == [each.model for each in REQUESTS]
    assert sorted(each.error for each in run.outcomes) == sorted(sender.models)
    assert run.seconds >= 0.01 * 12 / min(concurrency, 12)


async def test_requests_that_are_over_are_counted(tally):
    await closed_loop(Sender(0).send, REQUESTS, 3, tally)
    assert tally.progress().detail == "12 of 12 requests, 12 failed"


async def test_an_open_loop_waits_for_times_and_not_for_answers(tally):
    sender = Sender(seconds=0.5)
    arrivals = [0.01 * number for number in range(12)]
    begin = time.perf_counter()
    run = await open_loop(sender.send, REQUESTS, arrivals, tally)
    assert sender.most == 12
    assert run.seconds >= 0.5 + arrivals[-1]
    assert all(start - begin >= due for start, due in zip(sender.starts, arrivals, strict=True))


async def test_leaving_a_loop_leaves_no_request_behind(tally):
    sender = Sender(seconds=60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await closed_loop(sender.send, REQUESTS, 4, tally)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_arrivals_are_those_of_a_poisson_process():
    arrivals = poisson_arrivals(4.0, 20001, seed=3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert arrivals[0] == 0.0
    assert len(arrivals) == 20001
    # Exponential gaps: mean and standard deviation are 1 / rate, and 1/e of them are above it.
    assert statistics.mean(gaps) == pytest.approx(0.25, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.03)
    assert sum(gap > 0.25 for gap in gaps) / 20000 == pytest.approx(0.368, abs=0.015)


def test_a_seed_gives_its_arrivals_again():
    assert poisson_arrivals(4.0, 9, seed=1) == poisson_arrivals(4.0, 9, seed=1)
    assert poisson_arrivals(4.0, 9, seed=1) != poisson_arrivals(4.0, 9, seed=2)
    assert poisson_arrivals(4.0, 1, seed=1) == [0.0]
