"""Runs requests on an engine and gives their answers piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ferrule.frontend.completion import Completion, Delta
from ferrule.frontend.engine_protocol import EngineProtocol

Batch = list[tuple[int, Delta]]
# Deltas, None for each completion that has ended, or the error that ends all of them.
Inbox = asyncio.Queue[tuple[int, Delta] | Exception | None]


async def stream(
    engine: EngineProtocol, completions: Sequence[Completion], inbox: Inbox
) -> AsyncGenerator[Batch, None]:
    """Runs all completions at once.

    Whoever stops reading must close the generator (``contextlib.aclosing``) or be cancelled in
    it: either way what still runs is aborted at once.

    Args:
        engine: Where they run.
        completions: Fresh ones, whose requests have ids that are not in use.
        inbox: Empty. Whoever puts an exception into it ends the stream with that.

    Yields:
        What arrived since the last batch, in order: pairs of an index into ``completions`` and
        its delta. A reader that falls behind gets more at once.

    Raises:
        EngineDeadError: The engine ended.
        RequestError: The engine refused one of the requests; the others are aborted.
    """
    tasks = [
        asyncio.create_task(_pump(engine, index, completion, inbox))
        for index, completion in enumerate(completions)
    ]
    num_running = len(tasks)
    try:
        while num_running:
            items = [await inbox.get()]
            while not inbox.empty():
                items.append(inbox.get_nowait())
            for item in items:
                if isinstance(item, Exception):
                    raise item
            num_running -= items.count(None)
            if batch := [item for item in items if isinstance(item, tuple)]:
                yield batch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(engine: EngineProtocol, index: int, completion: Completion, inbox: Inbox) -> None:
    """Puts one completion's deltas into the inbox, then None, or the error that ended it."""
    try:
        # Leaving the loop early, by a stop string or a reader that is gone, aborts the request.
        async with aclosing(engine.generate(completion.request)) as outputs:
            async for output in outputs:
                inbox.put_nowait((index, completion.push(output)))
                if completion.finish_reason is not None:
                    break
    except Exception as error:
        inbox.put_nowait(error)
    else:
        inbox.put_nowait(None)
