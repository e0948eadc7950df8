"""An answer that comes piece by piece and stops as soon as nobody listens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from litestar.types import Receive, Scope, Send

from ferrule.server.disconnect import unless_client_leaves
from ferrule.server.errors import ClientLeftError

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    # Proxies must neither store events nor keep them back.
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """An ASGI application that sends what a generator yields.

    Litestar's own stream leaves the generator open when it is cancelled while it waits for a slow
    client; here it is closed whatever happens, and with it the requests that feed it.

    Args:
        events: Encoded events, one or more at a time.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything, or as much as the client waits for."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        with suppress(ClientLeftError):
            await unless_client_leaves(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
