"""Processes that compile kernels while the weights load, and the note that there is no need to.

The warm-up compiles what it does not find in Triton's cache, one kernel after another. Whatever
fails here therefore costs time and nothing else, and no error leaves this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import torch

from ferrule import __version__
from ferrule.engine.options import EngineOptions
from ferrule.kernels.available import has_triton
from ferrule.matching import Match
from ferrule.runtime.memory import free_memory

# -P for the same reason as the engine process: see cli/engine_start.py.
COMMAND = (sys.executable, "-P", "-m", "ferrule.precompile")
_MOST_PROCESSES = 10
# One loads the weights, one is for everything else.
_OTHER_CORES = 2
_BYTES_A_PROCESS = 4 << 30
_SECONDS = 60.0
_KILL_SECONDS = 5.0

_log = logging.getLogger(__name__)


class CompileAhead:
    """What was started; leaving its context ends what still runs.

    Args:
        processes: Each leads a process group.
        marker: A file that says that nothing is left to compile.
        made_for: What is written into it.
    """

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[bytes]] = (),
        marker: Path | None = None,
        made_for: str = "",
    ) -> None:
        self._processes = processes
        self._marker = marker
        self._made_for = made_for

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            _end(process)

    def wait(self, report: Callable[[], None], seconds: float = _SECONDS) -> None:
        """Waits until all have ended, and ends those that take longer.

        Args:
            report: Called if there is anything to wait for.
            seconds: At most.
        """
        if any(process.poll() is None for process in self._processes):
            report()
        deadline = time.monotonic() + seconds
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _end(process)

    def remember(self) -> None:
        """Notes that everything has been compiled; call it after the engine's own warm-up."""
        if self._marker is None:
            return
        with contextlib.suppress(OSError):
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.write_text(self._made_for)


def start_compiling(
    options: EngineOptions,
    chosen: Match,
    made_of: tuple[object, ...],
    device: torch.device,
    num_bytes: int,
    command: Sequence[str] = COMMAND,
) -> CompileAhead:
    """Starts as many processes as are of use; none where nothing is to be compiled.

    Args:
        options: Of the engine.
        chosen: The model.
        made_of: What else kernels depend on: types and limits, with the same ``repr`` each time.
        device: Of the engine.
        num_bytes: Of the weights, which are not loaded yet.
        command: Program and arguments; it is told its number and how many there are.
    """
    if device.type != "cuda" or not has_triton():
        return CompileAhead()
    try:
        made_for = _described(options, chosen, made_of, device)
        marker = _cache_folder() / f"ferrule-{hashlib.sha256(made_for.encode()).hexdigest()[:32]}"
        if marker.exists():
            return CompileAhead()
        room = free_memory(device) - num_bytes
        count = num_processes(len(os.sched_getaffinity(0)), room)
        return CompileAhead(_started(options, command, count), marker, made_for)
    except Exception:
        # The engine starts without this as well, only later.
        _log.debug("nothing is compiled ahead", exc_info=True)
        return CompileAhead()


def num_processes(num_cores: int, room: int) -> int:
    """How many are of use.

    Args:
        num_cores: That this process may use.
        room: Bytes of the device that weights leave.
    """
    return max(0, min(_MOST_PROCESSES, num_cores - _OTHER_CORES, room // _BYTES_A_PROCESS))


def _described(
    options: EngineOptions, chosen: Match, made_of: tuple[object, ...], device: torch.device
) -> str:
    versions = (__version__, str(torch.__version__), version("triton"))
    gpu = torch.cuda.get_device_name(device)
    sizes = (chosen.architecture.name, replace(chosen.config, notes=()))
    asked = (options.kv_cache_page_size, options.max_length, options.num_known_tokens)
    return repr((*versions, gpu, *sizes, *asked, *made_of))


def _cache_folder() -> Path:
    """Triton's own rule; the server's engine process is told where it is (cli/kernel_cache.py)."""
    if given := os.environ.get("TRITON_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"


def _started(
    options: EngineOptions, command: Sequence[str], count: int
) -> list[subprocess.Popen[bytes]]:
    line = msgspec.json.encode(options) + b"\n"
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(count):
            processes.append(_start_one((*command, str(index), str(count))))
            _write(processes[-1], line)
    except OSError as error:
        _log.debug("not every process was started: %s", error)
    return processes


def _start_one(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=None if _log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
        # The checkpoint is here already, and nobody is asked for it again.
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    # The pipe stays open: its end tells the process that this one is gone.
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those of its group; nothing happens if it has been ended already."""
    assert process.stdin is not None
    if process.stdin.closed:
        return
    if process.poll() is None:
        # The group: compilers that it started too.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECONDS)
    with contextlib.suppress(OSError):
        process.stdin.close()
    _log.debug("%s ended with %s", process.args, process.returncode)
