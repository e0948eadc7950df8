"""One HTTP request on its way: what runs for it, and what its answer is labelled with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from litestar import MediaType
from litestar.response.base import ASGIResponse

from ferrule.frontend.completion import Completion, Delta
from ferrule.frontend.model import ServedModel
from ferrule.server.errors import error_body
from ferrule.server.event_stream import EventStream
from ferrule.server.schema import Usage
from ferrule.server.service import Service
from ferrule.server.sse import DONE, event
from ferrule.server.usage import usage

T = TypeVar("T")

_LONG_BODY = 32 * 1024  # bytes; tokenising this much takes some milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a chat or completion request set going.

    Attributes:
        id: Of the answer: ``chatcmpl-...`` or ``cmpl-...``.
        service: Where it runs.
        model: The name that the client used.
        served: What it stands for.
        completions: ``n`` for each prompt.
        n: How many answers each prompt gets.
        includes_usage: Whether a stream ends with the usage.
        returns_token_ids: Whether token ids are given beside the text.
        created: Seconds since 1970.
    """

    id: str
    service: Service
    model: str
    served: ServedModel
    completions: list[Completion]
    n: int = 1
    includes_usage: bool = False
    returns_token_ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def usage(self) -> Usage:
        """How many tokens it took, once it has finished."""
        return usage(self.completions, self.n)

    def stream(
        self, encode: Callable[[int, Delta], bytes], usage_chunk: Callable[[], msgspec.Struct]
    ) -> EventStream:
        """The answer as events, ended by ``[DONE]``, or by an error event if it fails.

        Args:
            encode: The events of one choice's delta; empty when there is nothing to tell yet.
            usage_chunk: Made at the end, if the client asked for the usage.
        """
        return EventStream(self._events(encode, usage_chunk))

    async def _events(
        self, encode: Callable[[int, Delta], bytes], usage_chunk: Callable[[], msgspec.Struct]
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self.service.run(self.completions)) as batches:
                async for batch in batches:
                    # All that has arrived goes out in one write.
                    if data := b"".join([encode(index, delta) for index, delta in batch]):
                        yield data
        except Exception as error:
            # The status line is long gone; an event is the only way left to say it.
            yield event(error_body(error))
            return
        yield event(usage_chunk()) + DONE if self.includes_usage else DONE


def json_response(body: msgspec.Struct) -> ASGIResponse:
    """A body as JSON."""
    return ASGIResponse(body=msgspec.json.encode(body), media_type=MediaType.JSON)


async def aside_if_long(body: bytes, work: Callable[[], T]) -> T:
    """Runs work that grows with the body in a thread when it would hold up other streams."""
    return work() if len(body) < _LONG_BODY else await asyncio.to_thread(work)
