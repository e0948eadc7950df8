"""The engine process: builds an engine, then runs its steps and answers its client."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from ferrule.engine.engine import Engine
from ferrule.engine.messages import (
    Abort,
    EngineInfo,
    Failed,
    FromEngine,
    LoadLora,
    Outputs,
    Progress,
    Ready,
    Request,
    Shutdown,
    UnloadLora,
    decode_to_engine,
    encode,
)
from ferrule.errors import EngineDeadError, FerruleError, known_name

Build = Callable[[bytes, Callable[[Progress], None]], tuple[Engine, EngineInfo]]
Socket = zmq.Socket[bytes]

_STATS_SECONDS = 0.5
_PARENT_CHECK_SECONDS = 0.5
_FLUSH_MILLISECONDS = 2000
_QUIET_MILLISECONDS = 200
"""So long nobody must have said anything before the time is used, until somebody does."""


def serve_engine(address: str, parent: int, build: Build) -> int:
    """What an engine process does from its first line to its end.

    It takes the options from the client, builds the engine, says that it is ready and serves
    until it is told to end, gets SIGTERM, or the process that started it is gone.

    Args:
        address: Where to listen for the client, such as ``ipc:///run/ferrule/engine``.
        parent: Id of the process that started it.
        build: Makes the engine from the options, and says how far it is.

    Returns:
        The process's exit status: 1 after an error of ours, of which the client has been told.

    Raises:
        Exception: Whatever else building or a step raised; the client has been told.
    """
    _obey_the_server_alone(address, parent)
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    # A step never waits for a slow reader: what was said is kept until it is read.
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.LINGER, _FLUSH_MILLISECONDS)
    socket.bind(address)
    try:
        return _build_and_run(socket, build)
    finally:
        context.destroy()


def run_engine(engine: Engine, socket: Socket) -> None:
    """Steps while there is work, sleeps while there is none, returns when told to end.

    Between work and sleep it lets the engine prepare for later, as long as nobody says anything.

    Each step's outputs leave in one message. The figures go with them every half second and
    whenever the engine falls idle.

    Args:
        engine: What to run.
        socket: Bound where the client connects.
    """
    stats_due = 0.0
    while _receive(engine, socket):
        outputs = engine.step()
        for reply in engine.take_replies():
            _send(socket, reply)
        now = time.monotonic()
        stats = None
        if now >= stats_due or not engine.has_work:
            stats = engine.stats()
            stats_due = now + _STATS_SECONDS
        if outputs or stats is not None:
            _send(socket, Outputs(outputs=outputs, stats=stats))


def _receive(engine: Engine, socket: Socket) -> bool:
    """Takes in what the client said, waiting for it if there is no work; false: it is over."""
    while _has_message(engine, socket):
        match decode_to_engine(socket.recv()):
            case Request() as request:
                engine.add(request)
            case Abort(ids=ids):
                engine.abort(ids)
            case LoadLora(ticket=ticket, location=location):
                engine.load_lora(ticket, location)
            case UnloadLora(content=content):
                engine.unload_lora(content)
            case Shutdown():
                return False
    return True


def _has_message(engine: Engine, socket: Socket) -> bool:
    """Whether there is something to take in; without work it comes sooner or later."""
    if engine.has_work:
        return bool(socket.poll(0))
    quiet = _QUIET_MILLISECONDS
    while not socket.poll(quiet):
        if not engine.idle():
            return bool(socket.poll(None))
        quiet = 0
    return True


def _send(socket: Socket, message: FromEngine) -> None:
    socket.send(encode(message))


def _build_and_run(socket: Socket, build: Build) -> int:
    try:
        # They come when the client has read the checkpoint's text side, downloads included.
        engine, info = build(socket.recv(), lambda progress: _send(socket, progress))
        # Model and libraries live until the end: the collector need not walk them again.
        gc.collect()
        gc.freeze()
        _send(socket, Ready(info=info))
        run_engine(engine, socket)
    except FerruleError as error:
        _send(socket, Failed(known_name(error), error.message, error.hint))
        return 1
    except Exception as error:
        _send(socket, Failed(EngineDeadError.__name__, f"{type(error).__name__}: {error}"))
        raise
    return 0


def _obey_the_server_alone(address: str, parent: int) -> None:
    """Ctrl-C is for the server, which ends the engine when it has drained; and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(address, parent), daemon=True).start()


def _end_with_parent(address: str, parent: int) -> None:
    # A thread, because a build or a step may take long. A process whose parent is gone gets
    # another one; there is nobody left to answer, or to remove the place where it would.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    place = Path(address.removeprefix("ipc://"))
    with contextlib.suppress(OSError):
        place.unlink(missing_ok=True)
        place.parent.rmdir()
    os._exit(1)
