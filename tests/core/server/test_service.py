from __future__ import annotations

import asyncio

import pytest

from ferrule.engine.messages import Progress, Request
from ferrule.engine.status import EngineStatus
from ferrule.errors import EngineDeadError, EngineStartingError, ModelNotFoundError
from ferrule.frontend.completion import Completion
from ferrule.plan import SamplingParams
from ferrule.server.errors import ServerStoppingError


def completion(model, **sampling):
    request = Request(id="r", tokens=[0], sampling=SamplingParams(max_tokens=5, **sampling))
    return Completion(request, model.tokenizer)


async def test_answers_are_whole_and_counted(service, model):
    [answer] = await service.answers([completion(model)])
    assert (answer.text, answer.finish_reason) == ("Hello, w\N{REPLACEMENT CHARACTER}", "length")
    assert service.metrics.finished == {"length": 1}
    assert service.running == set()


async def test_stop_string_counts_as_a_stop(service, model):
    await service.answers([completion(model, stop=(",",))])
    assert service.metrics.finished == {"stop": 1}


async def test_what_is_left_counts_as_aborted(service, engine, model):
    engine.delay = 60
    task = asyncio.create_task(service.answers([completion(model)]))
    await asyncio.sleep(0.01)
    assert len(service.running) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert service.metrics.finished == {"abort": 1}
    assert (service.running, engine.running) == (set(), set())


async def test_end_all_ends_everything_also_without_the_engines_help(service, engine, model):
    engine.delay = 60
    tasks = [asyncio.create_task(service.answers([completion(model)])) for _ in range(3)]
    await asyncio.sleep(0.01)
    service.end_all()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ServerStoppingError] * 3
    assert engine.running == set()


def test_only_a_living_engine_is_ready(service, engine):
    service.check_ready()
    engine.status = EngineStatus(state="starting", progress=Progress("compiling"))
    with pytest.raises(EngineStartingError, match="compiling"):
        service.check_ready()
    engine.die("out of memory")
    with pytest.raises(EngineDeadError, match="out of memory"):
        service.check_ready()


def test_only_served_names_pass(service):
    assert service.named("org/fake") is service.model
    with pytest.raises(ModelNotFoundError, match="served: fake, org/fake"):
        service.named("FAKE")
