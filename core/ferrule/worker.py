"""The engine process: ``python -m ferrule.worker ADDRESS PARENT``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from ferrule.build import build_engine
from ferrule.engine.engine import Engine
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.options import EngineOptions
from ferrule.engine.process import serve_engine


def build(options: bytes, report: Callable[[Progress], None]) -> tuple[Engine, EngineInfo]:
    """An engine from options as the client sends them."""
    return build_engine(msgspec.msgpack.decode(options, type=EngineOptions), report)


def main() -> int:
    """Listens at the address given, as long as the parent of the given process id lives."""
    address, parent = sys.argv[1:]
    return serve_engine(address, int(parent), build)


if __name__ == "__main__":
    sys.exit(main())
