"""Processes that compile kernels while the weights load, and the note that there is no need to.

The warm-up compiles what it does not find in Triton's cache, one kernel after another. Whatever
fails here therefore costs time and nothing else, and no error leaves this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ferrule import __version__
from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.compile_helper import (
    COMMAND,
    MARKER,
    CompileHelper,
    cache_folder,
    most_helpers,
    start_helpers,
)
from ferrule.engine.options import EngineOptions
from ferrule.kernels.available import has_triton
from ferrule.matching import Match
from ferrule.runtime.memory import free_memory

_BYTES_A_PROCESS = 4 << 30
_SECONDS = 60.0

_log = logging.getLogger(__name__)


class CompileAhead:
    """What was started; leaving its context ends what still runs.

    Args:
        helpers: Told what to do.
        marker: A file that says that nothing is left to compile.
        made_for: What is written into it.
    """

    def __init__(
        self,
        helpers: Sequence[CompileHelper] = (),
        marker: Path | None = None,
        made_for: str = "",
    ) -> None:
        self._helpers = helpers
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
        for helper in self._helpers:
            helper.end()

    def wait(self, report: Callable[[], None], seconds: float = _SECONDS) -> None:
        """Waits until all have ended, and ends those that take longer.

        Args:
            report: Called if there is anything to wait for.
            seconds: At most.
        """
        if not all(helper.has_ended for helper in self._helpers):
            report()
        deadline = time.monotonic() + seconds
        for helper in self._helpers:
            helper.wait(max(0.0, deadline - time.monotonic()))

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
    *,
    started: Sequence[CompileHelper] = (),
    command: Sequence[str] = COMMAND,
) -> CompileAhead:
    """Has as many processes compile as are of use; none where nothing is to be compiled.

    Args:
        options: Of the engine.
        chosen: The model.
        made_of: What else kernels depend on: types and limits, with the same ``repr`` each time.
        device: Of the engine.
        num_bytes: Of the weights, which are not loaded yet.
        started: Helpers that wait already; those that are of no use are ended.
        command: Program and arguments of others.
    """
    used: list[CompileHelper] = []
    try:
        if device.type != "cuda" or not has_triton():
            return CompileAhead()
        made_for = _described(options, chosen, made_of, device)
        marker = cache_folder() / f"{MARKER}{hashlib.sha256(made_for.encode()).hexdigest()[:32]}"
        if marker.exists():
            return CompileAhead()
        count = num_helpers(free_memory(device) - num_bytes)
        used += started[:count]
        used += start_helpers(count - len(used), command)
        for index, helper in enumerate(used):
            # It may have ended.
            with contextlib.suppress(OSError):
                helper.tell(options, index, count)
        return CompileAhead(used, marker, made_for)
    except Exception:
        # The engine starts without this as well, only later.
        _log.debug("nothing is compiled ahead", exc_info=True)
        return CompileAhead()
    finally:
        for helper in started[len(used) :]:
            helper.end()


def num_helpers(room: int) -> int:
    """How many are of use.

    Args:
        room: Bytes of the device that weights leave.
    """
    return max(0, min(most_helpers(), room // _BYTES_A_PROCESS))


def _described(
    options: EngineOptions, chosen: Match, made_of: tuple[object, ...], device: torch.device
) -> str:
    versions = (__version__, str(torch.__version__), version("triton"))
    gpu = torch.cuda.get_device_name(device)
    sizes = (chosen.architecture.name, replace(chosen.config, notes=()))
    asked = (options.kv_cache_page_size, options.max_length, options.num_known_tokens)
    formats = _formats(chosen.checkpoint.tensors.values())
    return repr((*versions, gpu, *sizes, *asked, *made_of, formats))


def _formats(tensors: Iterable[TensorInfo]) -> list[tuple[tuple[str, str], int]]:
    """How many tensors of each name, whatever its layer, are in each format."""
    counts = Counter((re.sub(r"\d+", "N", tensor.name), tensor.format) for tensor in tensors)
    return sorted(counts.items())
