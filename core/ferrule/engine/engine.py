"""The step loop's body: requests in, outputs out, one step at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from ferrule.engine.messages import LoraLoaded, LoraRefused, Output, Request, Stats
from ferrule.engine.scheduler import Scheduler
from ferrule.engine.step import Step
from ferrule.errors import RequestError
from ferrule.plan import PendingStep, Runner

_WAIT_SECONDS = 0.005
"""For news of an adapter, where nothing else is to be done; requests are looked for after it."""


class Engine:
    """Runs requests together, in whatever process it stands.

    Args:
        scheduler: Decides.
        runner: Computes. An error it raises leaves ``step`` and is fatal: what is in the KV
            cache is unknown then.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._loras = scheduler.loras
        self._runner = runner
        # Outputs that arose between two steps.
        self._pending: list[Output] = []
        # What was launched and not read yet: nothing, if the runner does not run ahead.
        self._in_flight: tuple[Step, PendingStep] | None = None
        self._num_steps = 0
        self._step_seconds = 0.0
        self._wait_seconds = 0.0

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would give anything or bring anything further."""
        is_stepping = self._scheduler.has_work or self._in_flight is not None
        return is_stepping or self._loras.is_busy or bool(self._pending)

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
        """Brings every sequence one step further, if any has work, and returns what is new.

        With a runner that runs ahead this launches a step and then takes in the one before it,
        so the device has its next work when it ends the last.
        """
        outputs, self._pending = self._pending, []
        if self._scheduler.has_work or self._in_flight is not None:
            started = time.perf_counter()
            launched = self._launch()
            if self._runner.runs_ahead:
                launched, self._in_flight = self._in_flight, launched
            if launched is not None:
                outputs += self._take_in(*launched)
            self._step_seconds += time.perf_counter() - started
            outputs += self._scheduler.take_failed()
            if launched is None and self._in_flight is None:
                # Everybody waits for an adapter that is on its way.
                self._loras.wait(_WAIT_SECONDS)
        elif self._loras.is_busy:
            self._loras.wait(_WAIT_SECONDS)
        return outputs

    def load_lora(self, ticket: str, location: str) -> None:
        """Starts to read an adapter; ``take_replies`` will have the answer."""
        self._loras.load(ticket, location)

    def unload_lora(self, content: str) -> None:
        """Lets go of an adapter once the requests that want it have ended."""
        self._loras.unload(content)

    def take_replies(self) -> list[LoraLoaded | LoraRefused]:
        """Answers to ``load_lora`` since the last call."""
        return self._loras.take_replies()

    def idle(self) -> bool:
        """Uses a moment without work for what later steps would wait for.

        Returns:
            Whether there is more to do of that kind.
        """
        assert not self.has_work, "there is something better to do"
        return self._runner.use_idle_time()

    def stats(self) -> Stats:
        """What the engine does now and has done so far."""
        return msgspec.structs.replace(
            self._scheduler.stats(),
            steps_total=self._num_steps,
            step_seconds=self._step_seconds,
            host_seconds=self._step_seconds - self._wait_seconds,
        )

    def _launch(self) -> tuple[Step, PendingStep] | None:
        step = self._scheduler.schedule() if self._scheduler.has_work else None
        if step is None:
            is_waiting = self._in_flight is not None or self._loras.num_slots > 0
            assert is_waiting, "work that no step does"
            return None
        return step, self._runner.launch(step.plan)

    def _take_in(self, step: Step, pending: PendingStep) -> list[Output]:
        started = time.perf_counter()
        result = pending.result()
        self._wait_seconds += time.perf_counter() - started
        self._num_steps += 1
        return self._scheduler.advance(step, result)
