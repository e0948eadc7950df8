"""A child process: how it ended, and how to end it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import MappingProxyType

_TERMINATE_SECONDS = 2.0


class Child:
    """A process of ours; its stderr is ours too. It may be started before there is a loop.

    Args:
        command: Program and arguments.
        environment: Variables for it where ours has none of the name.

    Raises:
        OSError: There is no such program, or it cannot be run.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.DEVNULL,
            env={**environment, **os.environ},
            # A terminal sends Ctrl-C to its whole session. It is for us alone to take.
            start_new_session=True,
        )
        self._end: asyncio.Future[int] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> str:
        """Waits for its end and says in words how it ended, such as "exit code 1"."""
        # Others may go on waiting when one is cancelled.
        code = await asyncio.shield(self._ended())
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def end(self, seconds: float) -> None:
        """Waits so long for its own end, then terminates it, and kills it if that does not help."""
        if await self._has_ended(seconds):
            return
        self._process.terminate()
        if not await self._has_ended(_TERMINATE_SECONDS):
            self._process.kill()
            await self.wait()

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()

    async def _has_ended(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self._ended()], timeout=seconds)
        return bool(done)

    def _ended(self) -> asyncio.Future[int]:
        """The exit status, once there is one; a single thread waits for it."""
        if self._end is None:
            self._end = asyncio.ensure_future(asyncio.to_thread(self._process.wait))
        return self._end
