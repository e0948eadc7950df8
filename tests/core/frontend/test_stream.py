from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from ferrule.engine.messages import Request
from ferrule.errors import EngineDeadError, RequestError
from ferrule.frontend.completion import Completion
from ferrule.frontend.stream import Inbox, stream
from ferrule.plan import SamplingParams


def completions(tokenizer, n=1, **sampling):
    fields = {"max_tokens": 9, **sampling}
    return [
        Completion(
            Request(id=f"r{i}", tokens=[0], sampling=SamplingParams(**fields), stop_ids=(1,)),
            tokenizer,
        )
        for i in range(n)
    ]


async def collect(engine, jobs):
    texts = [""] * len(jobs)
    async with aclosing(stream(engine, jobs, Inbox())) as batches:
        async for batch in batches:
            for index, delta in batch:
                texts[index] += delta.text
    return texts


async def test_several_sequences_run_at_once(engine, tokenizer):
    engine.delay = 0.02
    async with asyncio.timeout(2):
        texts = await collect(engine, completions(tokenizer, n=20))
    assert set(texts) == {"Hello, wörld"}
    assert len(engine.requests) == 20
    assert engine.aborted == []


async def test_requests_are_with_the_engine_before_other_tasks_get_their_turn(engine, tokenizer):
    seen = []

    async def other():
        seen.append(len(engine.requests))

    await asyncio.gather(collect(engine, completions(tokenizer, n=3)), other())
    assert seen == [3]


async def test_slow_reader_gets_what_has_piled_up_at_once(engine, tokenizer):
    engine.delay = 0.001
    sizes = []
    async with aclosing(stream(engine, completions(tokenizer), Inbox())) as batches:
        async for batch in batches:
            sizes.append(len(batch))
            await asyncio.sleep(0.2)
    assert sum(sizes) == 9
    assert len(sizes) < 6


async def test_closing_early_aborts(engine, tokenizer):
    engine.delay = 0.01
    async with aclosing(stream(engine, completions(tokenizer, n=2), Inbox())) as batches:
        async for _ in batches:
            break
    assert engine.running == set()
    assert sorted(engine.aborted) == ["r0", "r1"]


async def test_cancelling_aborts(engine, tokenizer):
    engine.delay = 60
    task = asyncio.create_task(collect(engine, completions(tokenizer)))
    await asyncio.sleep(0.01)
    assert engine.running == {"r0"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.running, engine.aborted) == (set(), ["r0"])


async def test_stop_string_frees_the_request(engine, tokenizer):
    texts = await collect(engine, completions(tokenizer, stop=(",",)))
    assert texts == ["Hello"]
    assert (engine.running, engine.aborted) == (set(), ["r0"])


async def test_refusal_of_one_aborts_the_others(engine, tokenizer):
    jobs = completions(tokenizer, n=2)
    engine.error = "no room"
    with pytest.raises(RequestError, match="no room"):
        await collect(engine, jobs)
    assert engine.running == set()


async def test_death_of_the_engine_reaches_the_reader(engine, tokenizer):
    engine.delay = 0.01
    asyncio.get_running_loop().call_later(0.03, engine.die, "signal 9")
    with pytest.raises(EngineDeadError, match="signal 9"):
        await collect(engine, completions(tokenizer))


async def test_error_from_outside_ends_the_stream(engine, tokenizer):
    engine.delay = 60
    inbox = Inbox()
    asyncio.get_running_loop().call_later(0.02, inbox.put_nowait, TimeoutError("enough"))
    with pytest.raises(TimeoutError, match="enough"):
        async with aclosing(stream(engine, completions(tokenizer, n=2), inbox)) as batches:
            await anext(batches)
    assert engine.running == set()
