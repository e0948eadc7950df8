"""What the frontend asks of an engine, so that tests can put a small one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ferrule.engine.client import Inbox
from ferrule.engine.messages import EngineInfo, Request, Stats
from ferrule.engine.status import EngineStatus
from ferrule.plan import LoraInfo


class EngineProtocol(Protocol):
    """An engine that runs elsewhere; ``ferrule.engine.client.EngineClient`` is one.

    Attributes:
        status: Starting, ready or dead.
        stats: Its figures as it last told them.
    """

    status: EngineStatus
    stats: Stats

    @property
    def info(self) -> EngineInfo:
        """What is served; known once the engine is ready."""
        ...

    def submit(self, request: Request, inbox: Inbox) -> None:
        """Gives it a request, whose outputs arrive in the inbox, the last with a finish reason.

        Raises:
            EngineDeadError: The engine has ended; if it ends later, this arrives in the inbox.
        """
        ...

    def abort(self, ids: Sequence[str]) -> None:
        """Ends these requests, of which nothing more arrives."""
        ...

    async def load_lora(self, location: str) -> LoraInfo:
        """Reads an adapter, which requests may then name by its content.

        Raises:
            FerruleError: It cannot be served.
        """
        ...

    async def unload_lora(self, content: str) -> None:
        """Lets go of an adapter once the requests that want it have ended."""
        ...

    async def stop(self) -> None:
        """Ends the engine and whatever it still does."""
        ...
