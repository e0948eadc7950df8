"""The choices of ``/v1/completions``: whole, or as the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from ferrule.frontend.answer import Answer
from ferrule.frontend.completion import Delta
from ferrule.plan import TokenLogprobs
from ferrule.server.completions_schema import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
)
from ferrule.server.echo import Echo
from ferrule.server.job import Job
from ferrule.server.logprobs import completion_logprobs
from ferrule.server.sse import GAP, TextEvent, event


class CompletionChoices:
    """Shapes what one request's completions gave.

    Args:
        job: Whose answer it is.
        echoes: One for each prompt, or none if the prompts are not to be echoed.
        num_top: How many alternatives go beside each token, where log probabilities are asked for.
    """

    def __init__(self, job: Job, echoes: Sequence[Echo], num_top: int) -> None:
        self._job = job
        self._echoes = echoes
        self._num_top = num_top
        self._texts: dict[int, TextEvent] = {}

    def whole(self, index: int, answer: Answer) -> CompletionChoice:
        """One complete choice."""
        echo = self._echo(index)
        choice = self._choice(
            index,
            (echo.text if echo else "") + answer.text,
            answer.tokens,
            self._logprobs(index, echo, answer.tokens, answer.logprobs, answer.offsets),
        )
        choice.finish_reason = answer.finish_reason
        choice.stop_reason = answer.stop_reason
        if self._job.returns_token_ids:
            choice.prompt_token_ids = self._job.completions[index].request.tokens
        return choice

    def encode(self, index: int, delta: Delta) -> bytes:
        """The events that tell of a delta; none while its text is held back."""
        events = b"" if index in self._texts else self._begin(index)
        if delta.logprobs is not None or self._job.returns_token_ids:
            if delta.text or delta.tokens:
                logprobs = self._logprobs(index, None, delta.tokens, delta.logprobs, delta.offsets)
                events += self._event(self._choice(index, delta.text, delta.tokens, logprobs))
        elif delta.text:
            events += self._texts[index].encode(delta.text)
        if delta.finish_reason is not None:
            end = CompletionChoice(
                text="",
                index=index,
                finish_reason=delta.finish_reason,
                stop_reason=delta.stop_reason,
            )
            events += self._event(end)
        return events

    def usage(self) -> CompletionResponse:
        """The chunk that follows the last choice's end."""
        chunk = self._chunk()
        chunk.usage = self._job.usage()
        return chunk

    def _begin(self, index: int) -> bytes:
        """The echo and the prompt's tokens, where they are asked for."""
        self._texts[index] = TextEvent(self._chunk(CompletionChoice(text=GAP, index=index)))
        echo = self._echo(index)
        if echo is None and not self._job.returns_token_ids:
            return b""
        choice = CompletionChoice(
            text=echo.text if echo else "",
            index=index,
            logprobs=self._logprobs(index, echo, [], [], []) if echo else None,
        )
        if self._job.returns_token_ids:
            choice.prompt_token_ids = self._job.completions[index].request.tokens
        return self._event(choice)

    def _choice(
        self, index: int, text: str, tokens: list[int], logprobs: CompletionLogprobs | None
    ) -> CompletionChoice:
        return CompletionChoice(
            text=text,
            index=index,
            logprobs=logprobs,
            token_ids=tokens if self._job.returns_token_ids else UNSET,
        )

    def _logprobs(
        self,
        index: int,
        echo: Echo | None,
        tokens: list[int],
        logprobs: list[TokenLogprobs] | None,
        offsets: list[int],
    ) -> CompletionLogprobs | None:
        """Of an answer's tokens, after those of the echo if it is given."""
        completion = self._job.completions[index]
        if completion.request.sampling.logprobs is None or logprobs is None:
            return None
        before = self._echo(index)
        base = len(before.text) if before else 0
        prompt = completion.prompt_logprobs or [] if echo else []
        return completion_logprobs(
            self._job.served.tokenizer,
            [*(echo.tokens if echo else ()), *tokens],
            [*prompt, *logprobs],
            [*(echo.offsets if echo else ()), *(base + offset for offset in offsets)],
            self._num_top,
        )

    def _echo(self, index: int) -> Echo | None:
        return self._echoes[index // self._job.n] if self._echoes else None

    def _event(self, *choices: CompletionChoice) -> bytes:
        return event(self._chunk(*choices))

    def _chunk(self, *choices: CompletionChoice) -> CompletionResponse:
        return CompletionResponse(
            id=self._job.id,
            created=self._job.created,
            model=self._job.model,
            system_fingerprint=self._job.service.fingerprint,
            choices=list(choices),
            # Every chunk but the last says null, as OpenAI's do.
            usage=None if self._job.includes_usage else UNSET,
        )
