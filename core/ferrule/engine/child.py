"""A child process: how it ended, what it last said, and how to end it."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from io import FileIO

_TAIL_CHARACTERS = 16_384
_TAIL_LINES = 20
_TERMINATE_SECONDS = 2.0
_LAST_WORDS_SECONDS = 0.2


class Child:
    """A process started by ``Child.start``; what it writes to stderr is shown as ours.

    Args:
        process: The process.
        log: The reading end of the pipe that is its stderr.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: FileIO) -> None:
        self._process = process
        self._tail = ""
        self._reading = asyncio.create_task(self._forward(log))

    @classmethod
    async def start(cls, command: Sequence[str]) -> Child:
        """Starts a program.

        Raises:
            OSError: There is no such program, or it cannot be run.
        """
        # A pipe of our own: asyncio takes a process for running until its pipes are closed, and
        # a grandchild, such as a compiler, may hold them open after the process was killed.
        reading, writing = os.pipe()
        log = FileIO(reading)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=writing,
                # A terminal sends Ctrl-C to its whole session. It is for us alone to take.
                start_new_session=True,
            )
        except BaseException:
            log.close()
            raise
        finally:
            os.close(writing)
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def last_lines(self) -> str:
        """The end of what it wrote to stderr."""
        return "\n".join(self._tail.splitlines()[-_TAIL_LINES:])

    async def wait(self) -> str:
        """Waits for its end and says in words how it ended, such as "exit code 1"."""
        code = await self._process.wait()
        await self._read_last_words()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def end(self, seconds: float) -> None:
        """Waits so long for its own end, then terminates it, and kills it if that does not help."""
        if not await self._has_ended(seconds):
            self._process.terminate()
            if not await self._has_ended(_TERMINATE_SECONDS):
                self._process.kill()
                await self._process.wait()
        await self._read_last_words()

    async def _has_ended(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    async def _read_last_words(self) -> None:
        await asyncio.wait([self._reading], timeout=_LAST_WORDS_SECONDS)
        self._reading.cancel()

    async def _forward(self, log: FileIO) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), log
        )
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.closing(transport):
            while data := await reader.read(4096):
                text = decoder.decode(data)
                self._tail = (self._tail + text)[-_TAIL_CHARACTERS:]
                sys.stderr.write(text)
                sys.stderr.flush()
