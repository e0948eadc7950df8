"""The step loop's body: requests in, outputs out, one step at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from ferrule.engine.messages import Output, Request, Stats
from ferrule.engine.scheduler import Scheduler
from ferrule.errors import RequestError
from ferrule.plan import Runner


class Engine:
    """Runs requests together, in whatever process it stands.

    Args:
        scheduler: Decides.
        runner: Computes. An error it raises leaves ``step`` and is fatal: what is in the KV
            cache is unknown then.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        # Outputs that arose between two steps.
        self._pending: list[Output] = []
        self._num_steps = 0
        self._step_seconds = 0.0

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would give anything or bring anything further."""
        return self._scheduler.has_work or bool(self._pending)

    def add(self, request: Request) -> None:
        """Takes a request; one that can never run gets an output with the error at once."""
        try:
            self._scheduler.add(request)
        except RequestError as error:
            self._pending.append(Output(id=request.id, finish_reason="error", error=str(error)))

    def abort(self, ids: Sequence[str]) -> None:
        """Ends these requests now; the next step gives their last outputs."""
        self._pending += self._scheduler.abort(ids)

    def step(self) -> list[Output]:
        """Runs one step, if any sequence has work, and returns what is new."""
        outputs, self._pending = self._pending, []
        if self._scheduler.has_work:
            started = time.perf_counter()
            plan = self._scheduler.schedule()
            outputs += self._scheduler.advance(plan, self._runner.run(plan))
            self._num_steps += 1
            self._step_seconds += time.perf_counter() - started
        return outputs

    def stats(self) -> Stats:
        """What the engine does now and has done so far."""
        return msgspec.structs.replace(
            self._scheduler.stats(), steps_total=self._num_steps, step_seconds=self._step_seconds
        )
