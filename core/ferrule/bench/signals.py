"""Ends a measurement in order where a signal asks for its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any

import uvloop

# A closed terminal and whoever supervises us. Python makes an exception of Ctrl-C by itself.
_SIGNALS = (signal.SIGHUP, signal.SIGTERM)


@contextlib.contextmanager
def ended_by_signals() -> Generator[None]:
    """Within it, signals leave contexts as Ctrl-C does; without it they would end us at once.

    Raises:
        SystemExit: A signal came; the status is that of a process that it ended.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handled(leave):
        yield


def run_until_signal(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine in a loop of its own; signals cancel it.

    Args:
        coroutine: What to run.

    Raises:
        SystemExit: A signal came.
        KeyboardInterrupt: Ctrl-C came.
    """
    numbers: list[int] = []

    async def run() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel(number: int, frame: FrameType | None) -> None:
            # An exception that is raised here would end whichever task runs now, not this one.
            numbers.append(number)
            loop.call_soon_threadsafe(task.cancel)

        with _handled(cancel):
            await coroutine

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except asyncio.CancelledError:
        raise SystemExit(128 + numbers[0]) from None


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    # One that is ignored, as under nohup, stays so.
    taken = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)
