"""Runs the HTTP server from its first request to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Generator

import uvicorn

from ferrule.engine.messages import EngineInfo
from ferrule.errors import EngineDeadError
from ferrule.server.app import create_app
from ferrule.server.service import Service

SHUTDOWN_SECONDS = 30.0
# Behind a proxy the proxy must be the one to close idle connections; theirs last a minute or so.
_KEEP_ALIVE_SECONDS = 75
_WATCH_SECONDS = 0.1
# How long streams that were ended get to say so before their connections are cut.
_LAST_WORDS_SECONDS = 2


class HttpServer:
    """One run of the server within an asyncio loop.

    Requests are answered from the start, with 503 until the engine is ready. uvicorn's own signal
    handlers are not installed: whoever runs the loop passes signals on to ``stop``.

    Args:
        service: What to serve; its engine is stopped at the end.
        sock: From ``ferrule.server.listen.listen``.
        shutdown_seconds: How long running requests may take to finish once it is stopped.
        access_log: Whether each request is logged to ``uvicorn.access``.
    """

    def __init__(
        self,
        service: Service,
        sock: socket.socket,
        *,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
        access_log: bool = False,
    ) -> None:
        self._service = service
        self._sock = sock
        self._shutdown_seconds = shutdown_seconds
        self._server = _Server(
            uvicorn.Config(
                create_app(service),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=access_log,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                # Only for what closing the connections does not end.
                timeout_graceful_shutdown=math.ceil(shutdown_seconds) + 2 * _LAST_WORDS_SECONDS,
            )
        )
        self._failure: Exception | None = None
        self._status = 0

    async def run(
        self, start: Callable[[], Awaitable[EngineInfo]], on_ready: Callable[[EngineInfo], None]
    ) -> int:
        """Serves until it is stopped or the engine ends.

        Args:
            start: Starts the engine and returns when it is ready.
            on_ready: Is told when it is.

        Returns:
            The exit status: 0 after an orderly end, 128 plus the signal's number after a second
            one.

        Raises:
            FerruleError: The engine could not start, or it died (EngineDeadError).
        """
        supervising = asyncio.create_task(self._supervise(start, on_ready))
        try:
            await self._server.serve(sockets=[self._sock])
        finally:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
            await self._service.engine.stop()
            self._close_connections()
            self._sock.close()
        if self._failure is not None:
            raise self._failure
        return self._status

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it: the first call lets running requests finish, the second does not.

        Args:
            number: Of the signal that asked for it.
        """
        if self._server.should_exit:
            self._status = 128 + number
            self._server.force_exit = True
            self._close_connections()
            return
        self._server.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._shutdown_seconds, self._service.end_all)
        # A client that does not read does not hear that either.
        loop.call_later(self._shutdown_seconds + _LAST_WORDS_SECONDS, self._close_connections)

    def _close_connections(self) -> None:
        """Drops clients and what they have not read; their requests end as if they had left."""
        for connection in self._server.server_state.connections:
            connection.transport.abort()

    async def _supervise(
        self, start: Callable[[], Awaitable[EngineInfo]], on_ready: Callable[[EngineInfo], None]
    ) -> None:
        """Starts the engine, then watches it; whatever goes wrong ends the server."""
        engine = self._service.engine
        try:
            info = await start()
            self._service.loras.adopt(info.loras)
            on_ready(info)
            while engine.status.state == "ready":
                await asyncio.sleep(_WATCH_SECONDS)
            raise EngineDeadError(f"the engine has ended: {engine.status.cause}")
        except Exception as error:
            self._failure = error
            self._server.should_exit = True


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals alone: uvicorn would raise them again at the end, against a clean exit."""
        yield
