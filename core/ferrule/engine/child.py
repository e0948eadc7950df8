"""A child process: how it ended, and how to end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType

_TERMINATE_SECONDS = 2.0


class Child:
    """A process started by ``Child.start``; its stderr is ours.

    Args:
        process: The process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> Child:
        """Starts a program.

        Args:
            command: Program and arguments.
            environment: Variables for it where ours has none of the name.

        Raises:
            OSError: There is no such program, or it cannot be run.
        """
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                env={**environment, **os.environ},
                # A terminal sends Ctrl-C to its whole session. It is for us alone to take.
                start_new_session=True,
            )
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> str:
        """Waits for its end and says in words how it ended, such as "exit code 1"."""
        code = await self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def end(self, seconds: float) -> None:
        """Waits so long for its own end, then terminates it, and kills it if that does not help."""
        if await self._has_ended(seconds):
            return
        self._process.terminate()
        if not await self._has_ended(_TERMINATE_SECONDS):
            self._process.kill()
            await self._process.wait()

    async def _has_ended(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None
