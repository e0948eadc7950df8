from __future__ import annotations

import asyncio

import pytest

from ferrule.bench.in_process import InProcess
from ferrule.bench.load import closed_loop
from ferrule.bench.measurement import BenchRequest, Failure, Measurement
from ferrule.bench.prompts import Prompt
from ferrule.bench.tally import Tally
from ferrule.engine.messages import Output
from ferrule.llm import LLM


def request_for(tokens, max_tokens=6):
    return BenchRequest(model="", prompt=Prompt(text=tokens, max_tokens=max_tokens))


@pytest.fixture
def llm(tiny_llama):
    return LLM(tiny_llama, devices="cpu", max_batch_size=4, kv_cache_page_size=16)


@pytest.fixture
def tally():
    return Tally("a point", 6)


def is_idle(llm):
    llm.engine.step()
    stats = llm.engine.stats()
    return not llm.engine.has_work and stats.running == stats.waiting == 0


async def test_an_answer_is_measured(llm, tally):
    got = await InProcess(llm).send(request_for([5, 6, 7]), tally)
    assert isinstance(got, Measurement)
    assert (got.prompt_tokens, got.output_tokens, got.cached_tokens) == (3, 6, 0)
    assert got.ttft > 0
    assert got.ttft + 5 * got.itl == pytest.approx(got.e2e)
    assert is_idle(llm)


async def test_requests_run_together(llm, tally, monkeypatch):
    steps = []
    step = llm.engine.step

    def counted():
        steps.append(llm.engine.stats().running + llm.engine.stats().waiting)
        return step()

    monkeypatch.setattr(llm.engine, "step", counted)
    requests = [request_for([number, 6, 7]) for number in range(6)]
    run = await closed_loop(InProcess(llm).send, requests, 3, tally)
    assert [each.output_tokens for each in run.outcomes] == [6] * 6
    assert max(steps) == 3
    # Two rounds of six tokens, three at a time: as one ends, the next takes its place.
    assert len(steps) < 6 * 6 / 2
    assert is_idle(llm)


async def test_prompts_that_were_seen_are_counted_as_cached(llm, tally):
    prompt = [number % 250 for number in range(40)]
    target = InProcess(llm)
    await target.send(request_for(prompt), tally)
    assert (await target.send(request_for(prompt), tally)).cached_tokens == 32


async def test_a_text_is_tokenized(llm, tally):
    got = await InProcess(llm).send(request_for("abc"), tally)
    assert got.prompt_tokens == 3


async def test_what_the_model_cannot_take_is_a_failure(llm, tally):
    target = InProcess(llm)
    assert "token id 9999" in (await target.send(request_for([9999]), tally)).error
    got = await target.send(request_for([1] * 255, max_tokens=9), tally)
    assert isinstance(got, Failure)
    assert "the context is 256 tokens" in got.error


async def test_leaving_aborts_what_runs(llm, tally):
    target = InProcess(llm)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await target.send(request_for([1, 2], max_tokens=250), tally)
    # The last output of what was aborted comes with the next one's.
    assert (await target.send(request_for([3, 4]), tally)).output_tokens == 6
    assert is_idle(llm)


async def test_an_answer_that_the_engine_cannot_give_is_a_failure(llm, tally, monkeypatch):
    asked = []
    monkeypatch.setattr(llm.engine, "add", lambda request: asked.append(request.id))
    monkeypatch.setattr(
        llm.engine,
        "step",
        lambda: [Output(id=id, finish_reason="error", error="no room for it") for id in asked],
    )
    assert await InProcess(llm).send(request_for([1]), tally) == Failure("no room for it")


async def test_an_error_of_the_engine_ends_all_that_wait(llm, tally, monkeypatch):
    def fail():
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(llm.engine, "step", fail)
    with pytest.raises(ExceptionGroup) as caught:
        await closed_loop(InProcess(llm).send, [request_for([1])] * 3, 3, tally)
    assert [str(each) for each in caught.value.exceptions] == ["the device is lost"] * 3
