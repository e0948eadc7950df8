"""Where an engine process is in its life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ferrule.engine.messages import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatus:
    """Where the engine process is in its life.

    Attributes:
        state: A dead engine does not come back.
        progress: What it said last about its start.
        cause: Why it is dead.
    """

    state: Literal["starting", "ready", "dead"]
    progress: Progress | None = None
    cause: str = ""
