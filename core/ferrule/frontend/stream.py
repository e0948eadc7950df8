"""Runs requests on an engine and gives their answers piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from ferrule.engine.client import Inbox
from ferrule.frontend.completion import Completion, Delta
from ferrule.frontend.engine_protocol import EngineProtocol

Batch = list[tuple[int, Delta]]


async def stream(
    engine: EngineProtocol, completions: Sequence[Completion], inbox: Inbox
) -> AsyncGenerator[Batch, None]:
    """Runs all completions at once.

    Whoever stops reading must close the generator (``contextlib.aclosing``) or be cancelled in
    it: either way what still runs is aborted at once. The requests are with the engine before
    this waits for the first time: where many clients come at once, the engine begins with the
    first while the server still reads the others.

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
    running: dict[str, int] = {}
    try:
        for index, completion in enumerate(completions):
            engine.submit(completion.request, inbox)
            running[completion.request.id] = index
        while running:
            items = [await inbox.get()]
            while not inbox.empty():
                items.append(inbox.get_nowait())
            batch: Batch = []
            for item in items:
                if isinstance(item, Exception):
                    raise item
                # What comes after a stop string is for nobody.
                if (index := running.get(item.id)) is None:
                    continue
                completion = completions[index]
                batch.append((index, completion.push(item)))
                if completion.finish_reason is not None:
                    del running[item.id]
                    if completion.needs_abort:
                        engine.abort([item.id])
            if batch:
                yield batch
    finally:
        engine.abort(list(running))
