"""The engine process: ``python -m ferrule.worker DEVICES ADDRESS PARENT``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from ferrule.compile_helper import start_early
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.runtime.driver import wake_driver

if TYPE_CHECKING:
    from ferrule.engine.engine import Engine


def main() -> int:
    """Listens at the address given, as long as the parent of the given process id lives."""
    devices, address, parent = sys.argv[1:]
    wake_driver(devices)
    with ExitStack() as ending:
        helpers = start_early(devices)
        for helper in helpers:
            ending.callback(helper.end)
        # Libraries leave no garbage worth a search, which takes a tenth of their import's time,
        # and later searches need not walk them.
        gc.disable()
        from ferrule.build import build_engine
        from ferrule.engine.process import serve_engine

        gc.freeze()
        gc.enable()

        def build(options: bytes, report: Callable[[Progress], None]) -> tuple[Engine, EngineInfo]:
            asked = msgspec.msgpack.decode(options, type=EngineOptions)
            return build_engine(asked, report, helpers)

        return serve_engine(address, int(parent), build)


if __name__ == "__main__":
    sys.exit(main())
