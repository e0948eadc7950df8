"""Measures an engine in this process, without HTTP."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass

from ferrule.bench.measurement import BenchRequest, Failure, Outcome, measured
from ferrule.bench.tally import Tally
from ferrule.engine.messages import Output
from ferrule.errors import RequestError
from ferrule.frontend.prepare import make_requests, tokenize
from ferrule.llm import LLM
from ferrule.plan import SamplingParams


@dataclass(kw_only=True, slots=True)
class _Running:
    """A request in the engine."""

    outcome: asyncio.Future[Outcome]
    tally: Tally
    num_prompt: int
    start: float
    first: float = 0.0
    num_tokens: int = 0
    num_cached: int = 0


class InProcess:
    """Sends requests to a model's engine and steps it while there are any.

    Steps run in the loop of the senders: those whose answers have ended go on between two steps,
    as they do in front of a server.

    Args:
        llm: The model.
        temperature: Of every request.
    """

    def __init__(self, llm: LLM, *, temperature: float = 0.0) -> None:
        self._llm = llm
        self._temperature = temperature
        self._running: dict[str, _Running] = {}
        self._ids = itertools.count()
        self._stepping: asyncio.Task[None] | None = None

    async def send(self, request: BenchRequest, tally: Tally) -> Outcome:
        """Runs a request to its end; one that the model cannot take is a failure.

        Args:
            request: What to generate; its model's name does not matter.
            tally: Counts tokens as they come.
        """
        sampling = SamplingParams(
            temperature=self._temperature, max_tokens=request.prompt.max_tokens, ignore_eos=True
        )
        start = time.perf_counter()
        model = self._llm.model
        try:
            (made,) = make_requests(
                model,
                self._llm.info,
                tokenize(model, request.prompt.text),
                sampling,
                request_id=f"bench-{next(self._ids)}",
            )
        except RequestError as error:
            return Failure(str(error))
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._running[made.id] = _Running(
            outcome=outcome, tally=tally, num_prompt=len(made.tokens), start=start
        )
        self._llm.engine.add(made)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            return await outcome
        finally:
            if self._running.pop(made.id, None):
                self._llm.engine.abort([made.id])

    async def _step(self) -> None:
        """Steps until nothing runs; an error of the engine's is that of all who wait for it."""
        try:
            while self._running:
                for output in self._llm.engine.step():
                    self._take(output, time.perf_counter())
                await asyncio.sleep(0)
        except Exception as error:
            for each in self._running.values():
                if not each.outcome.done():
                    each.outcome.set_exception(error)

    def _take(self, output: Output, now: float) -> None:
        running = self._running.get(output.id)
        if running is None:
            return
        if output.tokens:
            running.first = running.first or now
            running.num_tokens += len(output.tokens)
            running.tally.add_tokens(len(output.tokens))
        running.num_cached = max(running.num_cached, output.num_cached_tokens)
        if output.finish_reason is not None and not running.outcome.done():
            del self._running[output.id]
            running.outcome.set_result(_outcome(running, output, now))


def _outcome(running: _Running, output: Output, now: float) -> Outcome:
    if output.finish_reason == "error" or not running.num_tokens:
        return Failure(output.error or "no tokens came")
    return measured(
        prompt_tokens=running.num_prompt,
        cached_tokens=running.num_cached,
        output_tokens=running.num_tokens,
        start=running.start,
        first=running.first,
        last=now,
        end=now,
    )
