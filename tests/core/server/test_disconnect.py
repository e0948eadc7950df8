from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from ferrule.server.disconnect import unless_client_leaves
from ferrule.server.errors import ClientLeftError


def channel(*messages):
    """Gives these messages, then waits for ever."""
    queue = list(messages)

    async def receive():
        if queue:
            return queue.pop(0)
        return await asyncio.Event().wait()

    return receive


async def test_work_that_ends_first_gives_its_result():
    async def work():
        return 5

    assert await unless_client_leaves(channel(), work()) == 5


async def test_work_begins_before_other_tasks_get_their_turn():
    order = []

    async def note(name):
        order.append(name)

    await asyncio.gather(unless_client_leaves(channel(), note("work")), note("other"))
    assert order == ["work", "other"]


async def test_errors_of_the_work_pass():
    async def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await unless_client_leaves(channel(), work())


async def test_work_is_cancelled_when_the_client_leaves():
    cancelled = asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    body = {"type": "http.request", "body": b"", "more_body": False}
    with pytest.raises(ClientLeftError):
        await unless_client_leaves(channel(body, {"type": "http.disconnect"}), work())
    assert cancelled.is_set()


async def test_cancelling_the_handler_cancels_the_work():
    cancelled = asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    task = asyncio.create_task(unless_client_leaves(channel(), work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


@asynccontextmanager
async def connection(url, **body):
    """A request on a connection of its own, which is cut at the end."""
    content = json.dumps({"model": "fake", "prompt": "x", "max_tokens": 400, **body}).encode()
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        yield reader
    finally:
        writer.transport.abort()


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "body",
    [{}, {"n": 3}, {"stream": True}, {"stream": True, "n": 3}, {"prompt": ["a", "b"]}],
    ids=str,
)
async def test_client_that_leaves_before_the_first_token_frees_its_requests(
    live_server, engine, body
):
    engine.delay = 60
    async with connection(live_server, **body):
        await until(lambda: engine.running)
    await until(lambda: not engine.running)
    assert len(engine.aborted) == len(engine.requests)


async def test_client_that_leaves_in_mid_stream_frees_its_request(live_server, engine):
    engine.delay = 0.01
    async with connection(live_server, stream=True, ignore_eos=True) as reader:
        await reader.readuntil(b"Hello")
    await until(lambda: not engine.running)
    assert len(engine.aborted) == 1


async def test_client_that_stops_reading_and_leaves_frees_its_request(live_server, engine):
    # 100 chunks of 20 alternatives fill every buffer on the way, so that the server waits in
    # sending and not for the engine.
    engine.tokens_per_output = 40
    fields = {"logprobs": 20, "ignore_eos": True, "n": 8, "stream": True}
    async with connection(live_server, **fields) as reader:
        await reader.readuntil(b"Hello")
        await asyncio.sleep(0.3)
    await until(lambda: not engine.running)


async def test_the_others_go_on(live_server, engine):
    engine.delay = 0.01
    async with connection(live_server, prompt="stays", max_tokens=30) as staying:
        async with connection(live_server, prompt="leaves"):
            await until(lambda: len(engine.running) == 2)
        answer = await staying.readuntil(b"}]")
    assert b"The quick brown fox." in answer
    assert len(engine.aborted) == 1
