"""A process that compiles kernels, which waits to be told of which model. Imports no torch."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ferrule.engine.options import EngineOptions

# -P for the same reason as the engine process: see cli/engine_start.py.
COMMAND = (sys.executable, "-P", "-m", "ferrule.precompile")
MARKER = "ferrule-"
"""How files begin that say what has been compiled."""
_MOST_PROCESSES = 10
# One loads the weights, one is for everything else.
_OTHER_CORES = 2
_KILL_SECONDS = 5.0
_GPUS = Path("/dev/nvidiactl")

_log = logging.getLogger(__name__)


class CompileHelper:
    """A process that leads a group, waits for its share of the work, and ends with this one.

    Args:
        command: Program and arguments.

    Raises:
        OSError: It cannot be run.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._process = subprocess.Popen(
            command,
            # The pipe stays open: its end tells the process that this one is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if _log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
            # The checkpoint is here already, and nobody is asked for it again.
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin

    @property
    def has_ended(self) -> bool:
        """Whether it has, by itself or not."""
        return self._process.poll() is not None

    def tell(self, options: EngineOptions, index: int, count: int) -> None:
        """Has it begin.

        Args:
            options: Of the engine.
            index: The first part of the work that it does.
            count: How many processes share it: it does every ``count``-th part.

        Raises:
            OSError: It has ended.
        """
        self._stdin.write(f"{index} {count}\n".encode() + msgspec.json.encode(options) + b"\n")
        self._stdin.flush()

    def wait(self, seconds: float) -> None:
        """Waits for its end, and ends it if it takes longer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.end()

    def end(self) -> None:
        """Ends it and those of its group; nothing happens if it has been ended already."""
        if self._stdin.closed:
            return
        if not self.has_ended:
            # The group: compilers that it started too.
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_SECONDS)
        with contextlib.suppress(OSError):
            self._stdin.close()
        _log.debug("%s ended with %s", self._process.args, self._process.returncode)


def start_helpers(count: int, command: Sequence[str] = COMMAND) -> list[CompileHelper]:
    """Starts that many, or as many as can be started."""
    helpers: list[CompileHelper] = []
    try:
        for _ in range(count):
            helpers.append(CompileHelper(command))
    except OSError as error:
        _log.debug("not every process was started: %s", error)
    return helpers


def start_early(devices: str, command: Sequence[str] = COMMAND) -> list[CompileHelper]:
    """Starts helpers before anybody knows the model, where nothing has been compiled yet.

    They import torch for some seconds, and can do so while the engine's process does.

    Args:
        devices: ``auto``, ``cpu``, ``gpu`` or ``gpu:N``.
        command: Program and arguments.
    """
    has_gpu = devices != "cpu" and _GPUS.exists()
    if not has_gpu or importlib.util.find_spec("triton") is None:
        return []
    try:
        has_compiled = any(cache_folder().glob(f"{MARKER}*"))
    except OSError:
        return []
    return [] if has_compiled else start_helpers(most_helpers(), command)


def most_helpers() -> int:
    """How many the cores that this process may use allow."""
    return max(0, min(_MOST_PROCESSES, len(os.sched_getaffinity(0)) - _OTHER_CORES))


def cache_folder() -> Path:
    """Triton's own rule; the server's engine process is told where it is (cli/kernel_cache.py)."""
    if given := os.environ.get("TRITON_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"
