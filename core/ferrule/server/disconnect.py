"""Ends work that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from ferrule.server.errors import ClientLeftError

T = TypeVar("T")


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs work to its end, or cancels it as soon as the client closes the connection.

    No ASGI server cancels the handler of an answer that comes at once, so somebody has to listen.

    The work stays in the caller's task: in one of its own it would begin only after all other
    requests that have arrived.

    Args:
        receive: The request's channel; its body has been read.
        work: What makes the answer.

    Raises:
        ClientLeftError: The client is gone.
    """
    working = asyncio.current_task()
    assert working is not None, "only a task can be cancelled"
    has_left = False

    def cancel(listening: asyncio.Task[None]) -> None:
        nonlocal has_left
        has_left = True
        working.cancel()

    listening = asyncio.create_task(_disconnect(receive))
    listening.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        # Whoever else cancels the task means the task.
        if has_left and not working.uncancel():
            raise ClientLeftError from None
        raise
    finally:
        listening.remove_done_callback(cancel)
        listening.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
