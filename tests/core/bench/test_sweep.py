from __future__ import annotations

import asyncio

import msgspec
import pytest

from ferrule.bench.measurement import Failure, measured
from ferrule.bench.prompts import open_prompts
from ferrule.bench.settings import Settings, make_loads
from ferrule.bench.sweep import sweep
from ferrule.bench.workload import FixedLengths

WORKLOAD = FixedLengths(input_len=100, output_len=4, shared_prefix=20)


class Sender:
    """Answers at once; ``answer(request)`` may make another outcome of it."""

    def __init__(self, *, cached=0, is_failing=lambda request: False):
        self.requests = []
        self._cached = cached
        self._is_failing = is_failing

    async def send(self, request, tally):
        self.requests.append(request)
        await asyncio.sleep(0)
        if self._is_failing(request):
            return Failure("lost")
        return measured(
            prompt_tokens=100,
            cached_tokens=self._cached,
            output_tokens=4,
            start=0.0,
            first=0.1,
            last=0.4,
            end=0.5,
        )


@pytest.fixture
def run(make_report):
    """``await run(sender, loads, **settings)`` gives a report and what was shown meanwhile."""

    async def run_one(sender, loads, **changes):
        settings = Settings(loads=loads, workload=WORKLOAD, **changes)
        report = msgspec.structs.replace(make_report([]), settings=settings, model="m")
        shown = []
        prompts = open_prompts(settings.workload, settings.seed)
        await sweep(sender.send, prompts, report, shown.append)
        return report, shown

    return run_one


async def test_each_load_is_a_point(run):
    sender = Sender()
    report, _ = await run(sender, make_loads((1, 4), (), 6))
    assert [(each.concurrency, each.requests) for each in report.points] == [(1, 6), (4, 6)]
    assert report.notes == []


async def test_rates_are_points_too(run):
    report, _ = await run(Sender(), make_loads((), (500.0, 900.0), 6))
    assert [(each.rate, each.requests) for each in report.points] == [(500, 6), (900, 6)]


async def test_the_warm_up_is_not_measured_and_no_prompt_comes_twice(run):
    sender = Sender()
    report, _ = await run(sender, make_loads((1, 4), (), 6), warmup=3)
    assert len(sender.requests) == 15
    assert sum(each.requests for each in report.points) == 12
    assert len({tuple(each.prompt.text) for each in sender.requests}) == 15


async def test_there_may_be_no_warm_up(run):
    sender = Sender()
    await run(sender, make_loads((1,), (), 6), warmup=0)
    assert len(sender.requests) == 6


async def test_requests_take_the_models_in_turn(run):
    sender = Sender()
    await run(sender, make_loads((1,), (), 5), warmup=0, models=("a", "b"))
    assert [each.model for each in sender.requests] == ["a", "b", "a", "b", "a"]


async def test_it_tells_how_far_it_is(run):
    _, shown = await run(Sender(), make_loads((4,), (), 6))
    stages = list(dict.fromkeys(each.stage for each in shown))
    assert stages == ["warming up", "4 clients"]
    assert (shown[-1].fraction, shown[-1].detail) == (1.0, "6 of 6 requests")


async def test_a_load_under_which_nothing_succeeds_is_the_last(run):
    sender = Sender(is_failing=lambda request: True)
    report, _ = await run(sender, make_loads((1, 4, 8), (), 6))
    assert [each.failed for each in report.points] == [6]
    assert report.notes == ["left out, as no request succeeded before: 4 clients, 8 clients"]


async def test_some_failures_end_nothing(run):
    sender = Sender(is_failing=lambda request: request.model == "b")
    report, _ = await run(sender, make_loads((1, 4), (), 6), warmup=0, models=("a", "b"))
    assert [each.failed for each in report.points] == [3, 3]


@pytest.mark.parametrize(("cached", "is_noted"), [(20, False), (24, False), (64, True)])
async def test_prompts_that_the_server_knew_are_noted(run, cached, is_noted):
    report, _ = await run(Sender(cached=cached), make_loads((1,), (), 6))
    assert [note.startswith("44 % of the prompts") for note in report.notes] == [True] * is_noted


async def test_what_was_measured_before_an_error_is_kept(run, make_report):
    settings = Settings(loads=make_loads((1, 4), (), 6), workload=WORKLOAD, warmup=0)
    report = msgspec.structs.replace(make_report([]), settings=settings)
    sender = Sender()

    async def send(request, tally):
        if len(sender.requests) == 8:
            raise RuntimeError("lost")
        return await sender.send(request, tally)

    prompts = open_prompts(settings.workload, 0)
    with pytest.raises(ExceptionGroup):
        await sweep(send, prompts, report, lambda _: None)
    assert [each.concurrency for each in report.points] == [1]
