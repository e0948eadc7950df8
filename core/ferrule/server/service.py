"""What the routes share: one model, its engine, and the counting of what runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ferrule.engine.client import Inbox
from ferrule.errors import EngineDeadError, EngineStartingError, ModelNotFoundError
from ferrule.frontend.answer import Answer
from ferrule.frontend.completion import Completion
from ferrule.frontend.engine_protocol import EngineProtocol
from ferrule.frontend.model import ServedModel
from ferrule.frontend.stream import Batch, stream
from ferrule.server.errors import ServerStoppingError
from ferrule.server.loras import ServedLoras
from ferrule.server.metrics import Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A served model.

    Attributes:
        model: Its text side.
        engine: Where it runs.
        loras: Its adapters.
        metrics: What is counted.
        version: Of ferrule.
        running: Where the outputs of each HTTP request in progress arrive.
    """

    model: ServedModel
    engine: EngineProtocol
    loras: ServedLoras
    metrics: Metrics
    version: str
    running: set[Inbox] = field(default_factory=set[Inbox])

    @property
    def fingerprint(self) -> str:
        """What answers carry as ``system_fingerprint``: equal seeds need equal fingerprints."""
        return f"ferrule-{self.version}"

    def check_ready(self) -> None:
        """Refuses to go on with an engine that takes no requests.

        Raises:
            EngineStartingError: It is not ready yet.
            EngineDeadError: It has ended.
        """
        status = self.engine.status
        if status.state == "dead":
            raise EngineDeadError(f"the engine has ended: {status.cause}")
        if status.state == "starting":
            stage = status.progress.stage if status.progress else "starting"
            raise EngineStartingError(f"the model is not ready yet: {stage}")

    def named(self, name: str) -> ServedModel:
        """The model, or the adapter, of a name.

        Raises:
            ModelNotFoundError: It is not served; with the names that are.
        """
        if name in self.model.names:
            return self.model
        if name in self.loras.models:
            return self.loras.models[name]
        served = ", ".join((*self.model.names, *self.loras.models))
        raise ModelNotFoundError(
            f"the model {name!r} is not served here; served: {served}",
            param="model",
            code="model_not_found",
        )

    async def run(self, completions: Sequence[Completion]) -> AsyncGenerator[Batch, None]:
        """Runs completions and counts them; see ``ferrule.frontend.stream.stream``.

        Raises:
            ServerStoppingError: They were ended by ``end_all``.
        """
        watches = [self.metrics.stopwatch() for _ in completions]
        inbox = Inbox()
        self.running.add(inbox)
        try:
            async with aclosing(stream(self.engine, completions, inbox)) as batches:
                async for batch in batches:
                    for index, _ in batch:
                        watches[index].tokens(completions[index].num_tokens)
                    yield batch
        finally:
            self.running.discard(inbox)
            for watch, completion in zip(watches, completions, strict=True):
                watch.finish(completion.finish_reason or "abort", len(completion.request.tokens))

    async def answers(self, completions: Sequence[Completion]) -> list[Answer]:
        """Runs completions to their end."""
        answers = [Answer() for _ in completions]
        async with aclosing(self.run(completions)) as batches:
            async for batch in batches:
                for index, delta in batch:
                    answers[index].add(delta)
        return answers

    def end_all(self) -> None:
        """Ends everything that runs with an error, since the time for it is over."""
        for inbox in self.running:
            inbox.put_nowait(ServerStoppingError("the server is shutting down"))
