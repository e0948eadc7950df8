from __future__ import annotations

import asyncio

import pytest

from ferrule.server.event_stream import EventStream


class Connection:
    """An ASGI connection whose client reads, stops reading, or leaves."""

    def __init__(self):
        self.sent = []
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.reads.wait()
        self.sent.append(message)


class Events:
    """Yields ``count`` pieces; knows whether it was closed."""

    def __init__(self, count):
        self.count = count
        self.is_closed = False

    async def __call__(self):
        try:
            for number in range(self.count):
                await asyncio.sleep(0.001)
                yield b"%d" % number
        finally:
            self.is_closed = True


async def run(events, connection):
    await EventStream(events())({"type": "http"}, connection.receive, connection.send)


async def test_all_pieces_are_sent_and_the_end_is_marked():
    connection, events = Connection(), Events(3)
    await run(events, connection)
    assert connection.sent[0]["status"] == 200
    assert dict(connection.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert [message["body"] for message in connection.sent[1:]] == [b"0", b"1", b"2", b""]
    assert [message["more_body"] for message in connection.sent[1:]] == [True, True, True, False]


async def test_client_that_leaves_closes_the_generator():
    connection, events = Connection(), Events(10**9)
    task = asyncio.create_task(run(events, connection))
    await asyncio.sleep(0.02)
    connection.left.set()
    await task
    assert events.is_closed


@pytest.mark.parametrize("leaves", [True, False])
async def test_generator_is_closed_also_while_the_client_does_not_read(leaves):
    connection, events = Connection(), Events(10**9)
    task = asyncio.create_task(run(events, connection))
    await asyncio.sleep(0.02)
    connection.reads.clear()
    await asyncio.sleep(0.02)
    if leaves:
        connection.left.set()
    else:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert events.is_closed
