"""The events of a streamed chat answer."""

from __future__ import annotations

from msgspec import UNSET

from ferrule.frontend.completion import Delta
from ferrule.server.chat_schema import ChatChunk, ChunkChoice, MessageDelta
from ferrule.server.job import Job
from ferrule.server.logprobs import chat_logprobs
from ferrule.server.sse import GAP, TextEvent, event


class ChatChunks:
    """Encodes the deltas of one request's choices.

    Args:
        job: Whose answer it is.
        num_top: How many alternatives go beside each token, where log probabilities are asked for.
    """

    def __init__(self, job: Job, num_top: int) -> None:
        self._job = job
        self._num_top = num_top
        self._texts: dict[int, TextEvent] = {}

    def encode(self, index: int, delta: Delta) -> bytes:
        """The events that tell of a delta; none while its text is held back."""
        events = b"" if index in self._texts else self._begin(index)
        if delta.logprobs is not None or self._job.returns_token_ids:
            if delta.text or delta.tokens:
                events += event(self._chunk(self._detailed(index, delta)))
        elif delta.text:
            events += self._texts[index].encode(delta.text)
        if delta.finish_reason is not None:
            events += event(self._chunk(_end(index, delta)))
        return events

    def usage(self) -> ChatChunk:
        """The chunk that follows the last choice's end."""
        chunk = self._chunk()
        chunk.usage = self._job.usage()
        return chunk

    def _begin(self, index: int) -> bytes:
        """The first event says who speaks; it travels with the first text."""
        self._texts[index] = TextEvent(
            self._chunk(ChunkChoice(index=index, delta=MessageDelta(content=GAP)))
        )
        chunk = self._chunk(
            ChunkChoice(index=index, delta=MessageDelta(role="assistant", content=""))
        )
        if self._job.returns_token_ids:
            chunk.prompt_token_ids = self._job.completions[index].request.tokens
        return event(chunk)

    def _detailed(self, index: int, delta: Delta) -> ChunkChoice:
        return ChunkChoice(
            index=index,
            delta=MessageDelta(content=delta.text),
            logprobs=chat_logprobs(
                self._job.served.tokenizer, delta.tokens, delta.logprobs, self._num_top
            ),
            token_ids=delta.tokens if self._job.returns_token_ids else UNSET,
        )

    def _chunk(self, *choices: ChunkChoice) -> ChatChunk:
        return ChatChunk(
            id=self._job.id,
            created=self._job.created,
            model=self._job.model,
            system_fingerprint=self._job.service.fingerprint,
            choices=list(choices),
            # Every chunk but the last says null, as OpenAI's do.
            usage=None if self._job.includes_usage else UNSET,
        )


def _end(index: int, delta: Delta) -> ChunkChoice:
    return ChunkChoice(
        index=index,
        delta=MessageDelta(),
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
    )
