"""Runs the HTTP server from its first request to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Generator

import uvicorn
import uvloop

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


def run_server(
    service: Service,
    sock: socket.socket,
    *,
    start: Callable[[], Awaitable[EngineInfo]],
    on_ready: Callable[[EngineInfo], None],
    shutdown_seconds: float = SHUTDOWN_SECONDS,
    access_log: bool = False,
) -> int:
    """Serves until SIGINT or SIGTERM; call it in the main thread.

    Requests are answered at once, with 503 until the engine is ready. The first signal stops
    accepting and lets running requests finish; a second one ends everything at once.

    Args:
        service: What to serve; its engine is stopped at the end.
        sock: From ``ferrule.server.listen.listen``.
        start: Starts the engine and returns when it is ready.
        on_ready: Is told when it is.
        shutdown_seconds: How long running requests may take to finish.
        access_log: Whether each request is logged to ``uvicorn.access``.

    Returns:
        The exit status: 0 after an orderly end, 128 plus the signal's number after a second signal.

    Raises:
        FerruleError: The engine could not start, or it died (EngineDeadError).
    """
    server = HttpServer(service, sock, shutdown_seconds=shutdown_seconds, access_log=access_log)

    async def run() -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, server.stop, number)
        return await server.run(start, on_ready)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


class HttpServer:
    """One run of the server within an asyncio loop.

    Args:
        service: What to serve; its engine is stopped at the end.
        sock: Listening.
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
                log_config=None,
                access_log=access_log,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(shutdown_seconds) + _LAST_WORDS_SECONDS,
            )
        )
        self._failure: Exception | None = None
        self._status = 0
        self._serving: asyncio.Task[None] | None = None

    async def run(
        self, start: Callable[[], Awaitable[EngineInfo]], on_ready: Callable[[EngineInfo], None]
    ) -> int:
        """Serves until it is stopped or the engine ends; see ``run_server``."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        supervising = asyncio.create_task(self._supervise(start, on_ready))
        try:
            await self._serving
        except asyncio.CancelledError:
            # A second signal cut it; whoever cancelled this coroutine itself must see it pass.
            if not self._status:
                raise
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
        """Ends it: the first call lets running requests finish, the second does not."""
        if self._server.should_exit:
            self._stop_at_once(number)
        else:
            self._server.should_exit = True
            loop = asyncio.get_running_loop()
            loop.call_later(self._shutdown_seconds, self._service.end_all)

    def _stop_at_once(self, number: int) -> None:
        self._status = 128 + number
        self._server.force_exit = True
        # Requests that are cut on purpose are no errors to report.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for task in self._server.server_state.tasks:
            task.cancel()
        if self._serving is not None:
            self._serving.cancel()

    def _close_connections(self) -> None:
        """Drops what a client has not read; the loop would wait for it for ever."""
        for connection in self._server.server_state.connections:
            connection.transport.abort()

    async def _supervise(
        self, start: Callable[[], Awaitable[EngineInfo]], on_ready: Callable[[EngineInfo], None]
    ) -> None:
        """Starts the engine, then watches it; whatever goes wrong ends the server."""
        engine = self._service.engine
        try:
            on_ready(await start())
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
