"""The engine as the server sees it: a process to start, requests and their outputs, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Sequence

import zmq
import zmq.asyncio

from ferrule.engine.child import Child
from ferrule.engine.launch import EngineLaunch
from ferrule.engine.messages import (
    Abort,
    EngineInfo,
    Failed,
    LoadLora,
    LoraLoaded,
    LoraRefused,
    Output,
    Outputs,
    Progress,
    Ready,
    Request,
    Shutdown,
    Stats,
    ToEngine,
    UnloadLora,
    decode_from_engine,
    encode,
    told,
)
from ferrule.engine.status import EngineStatus
from ferrule.errors import EngineDeadError, FerruleError, RequestError
from ferrule.plan import LoraInfo

Inbox = asyncio.Queue[Output | Exception]
"""Where outputs arrive; an exception ends all that was to arrive there."""

_RECONNECT_MILLISECONDS = 20
_QUIET_SECONDS = 0.2
_FAILED_SECONDS = 2.0


class EngineClient:
    """Speaks with an engine process; lives in one asyncio loop.

    Attributes:
        status: Starting, ready or dead.
        stats: The engine's figures as it last told them.
    """

    def __init__(self) -> None:
        self.status = EngineStatus(state="starting")
        self.stats = Stats()
        self._info: EngineInfo | None = None
        self._child: Child | None = None
        self._started: asyncio.Future[EngineInfo] | None = None
        self._on_progress: Callable[[Progress], None] | None = None
        self._failed: Failed | None = None
        self._is_stopping = False
        self._num_received = 0
        self._inboxes: dict[str, Inbox] = {}
        self._tickets = itertools.count()
        self._answers: dict[str, asyncio.Future[LoraInfo]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = contextlib.ExitStack()

    @property
    def info(self) -> EngineInfo:
        """What is served; known once the engine is ready."""
        assert self._info is not None, "the engine is not ready"
        return self._info

    async def start(
        self,
        launch: EngineLaunch,
        options: bytes,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> EngineInfo:
        """Tells a process what to run and waits until it is ready.

        Args:
            launch: The process; it is the client's from now on, and ends when the client stops.
            options: First message to the process; what it says is between caller and process.
            on_progress: Is told each stage of the start.

        Returns:
            What is served.

        Raises:
            FerruleError: What the process found wrong, as the class that it raised.
            EngineDeadError: The process ended without a word.
        """
        assert self._started is None, "an engine client starts once"
        self._started = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        self._closing.callback(launch.close)
        self._child = launch.child
        try:
            self._connect(launch.address)
            self._run(self._read())
            self._run(self._watch(self._child))
            await self._socket.send(options)
            return await self._started
        except BaseException:
            await self.stop()
            raise

    def submit(self, request: Request, inbox: Inbox) -> None:
        """Gives the engine a request before it returns, so that no other work comes first.

        Args:
            request: What to generate.
            inbox: Gets its outputs up to the one with a finish reason, or an EngineDeadError. It
                may serve several requests.

        Raises:
            RequestError: A request of this id is in progress.
            EngineDeadError: The engine process has ended.
        """
        if request.id in self._inboxes:
            raise RequestError(f"a request with the id {request.id!r} is in progress already")
        self._send(request)
        self._inboxes[request.id] = inbox

    def abort(self, ids: Sequence[str]) -> None:
        """Ends these requests, of which nothing more arrives; ids that have ended mean nothing."""
        if running := [id for id in ids if self._inboxes.pop(id, None) is not None]:
            self._send(Abort(ids=running))

    async def load_lora(self, location: str) -> LoraInfo:
        """Has an adapter read, which requests may then name by its content.

        Raises:
            FerruleError: What is wrong with it, as the class that was raised.
            EngineDeadError: The engine process has ended.
        """
        ticket = str(next(self._tickets))
        answer = self._answers[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._send(LoadLora(ticket=ticket, location=location))
            return await answer
        finally:
            del self._answers[ticket]

    async def unload_lora(self, content: str) -> None:
        """Lets go of an adapter once the requests that want it have ended.

        Raises:
            EngineDeadError: The engine process has ended.
        """
        self._send(UnloadLora(content=content))

    async def stop(self, timeout: float = 5.0) -> None:
        """Ends the process and every stream; may be called at any time and twice.

        Args:
            timeout: Seconds that a ready engine gets to end by itself before it is terminated,
                and a little later killed.
        """
        self._is_stopping = True
        if self._child is not None:
            if self.status.state == "ready":
                self._send(Shutdown())
            await self._child.end(timeout if self.status.state == "ready" else 0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._die("it was stopped")
        self._closing.close()

    def _connect(self, address: str) -> None:
        context = zmq.asyncio.Context()
        self._closing.callback(context.destroy, linger=0)
        self._socket = context.socket(zmq.DEALER)
        # On the connecting side sends never wait: not for a process that does not listen yet,
        # not for a slow one, and not for a dead one.
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        self._socket.connect(address)

    def _send(self, message: ToEngine) -> None:
        if self.status.state == "dead":
            raise self._dead_error()
        # Nothing to wait for: the queue has no limit, and the message is in it at once.
        self._socket.send(encode(message))

    async def _read(self) -> None:
        while True:
            message = decode_from_engine(await self._socket.recv())
            self._num_received += 1
            match message:
                case Outputs():
                    self._deliver(message)
                case Progress():
                    self.status = EngineStatus(state="starting", progress=message)
                    if self._on_progress is not None:
                        self._on_progress(message)
                case Ready(info=info):
                    self._info = info
                    self.status = EngineStatus(state="ready")
                    if self._started is not None and not self._started.done():
                        self._started.set_result(info)
                case LoraLoaded(ticket=ticket, info=lora):
                    if (answer := self._answers.get(ticket)) and not answer.done():
                        answer.set_result(lora)
                case LoraRefused(ticket=ticket):
                    if (answer := self._answers.get(ticket)) and not answer.done():
                        answer.set_exception(told(message))
                case Failed():
                    self._failed = message
                    # It ends by itself now; if that hangs, nobody must wait for it.
                    if self._child is not None:
                        self._run(self._child.end(_FAILED_SECONDS))

    def _deliver(self, message: Outputs) -> None:
        if message.stats is not None:
            self.stats = message.stats
        for output in message.outputs:
            # A request that was aborted is gone, and its last outputs are for nobody.
            if (inbox := self._inboxes.get(output.id)) is not None:
                if output.finish_reason is not None:
                    del self._inboxes[output.id]
                inbox.put_nowait(output)

    async def _watch(self, child: Child) -> None:
        """Waits for the process's end and tells everybody who depends on it."""
        ending = await child.wait()
        # What it said last may still be on its way.
        num_received = -1
        while self._failed is None and self._num_received > num_received:
            num_received = self._num_received
            await asyncio.sleep(_QUIET_SECONDS)
        reported = f"\n{self._failed.message}" if self._failed is not None else ""
        # Its log has gone to our own stderr, and clients of a server have no business with it.
        self._die(f"it ended with {ending}{reported}")

    def _die(self, cause: str) -> None:
        if self.status.state == "dead":
            return
        self.status = EngineStatus(state="dead", progress=self.status.progress, cause=cause)
        for inbox in self._inboxes.values():
            inbox.put_nowait(self._dead_error())
        self._inboxes.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._dead_error())
        if self._started is None or self._started.done():
            return
        if self._is_stopping:
            self._started.cancel()
        else:
            self._started.set_exception(self._start_error())

    def _dead_error(self) -> EngineDeadError:
        return EngineDeadError(f"the engine process is gone: {self.status.cause}")

    def _start_error(self) -> FerruleError:
        """What the process reported, as the class that it raised there."""
        if self._failed is None or self._failed.error_type == EngineDeadError.__name__:
            return self._dead_error()
        return told(self._failed)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._notice_failure)

    def _notice_failure(self, task: asyncio.Task[None]) -> None:
        """A mistake in reading or watching must not leave streams waiting for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._die(f"its client failed: {error!r}")
