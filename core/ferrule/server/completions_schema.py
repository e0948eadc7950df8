"""What ``/v1/completions`` takes and gives."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from ferrule.server.schema import GenerationRequest, Usage


class CompletionRequest(GenerationRequest, kw_only=True):
    """The body of a completion request.

    Attributes:
        prompt: A text, token ids, or a list of either.
        echo: Whether the prompt stands before the answer.
        logprobs: How many alternatives to report beside each token.
        best_of: Only as many as ``n``: all that is generated is returned.
        add_special_tokens: Whether a text gets the tokenizer's BOS.
    """

    prompt: str | list[str | int | list[int]]
    echo: bool = False
    logprobs: int | None = None
    best_of: int | None = None
    add_special_tokens: bool = True


class CompletionLogprobs(msgspec.Struct, kw_only=True):
    """Parallel lists with one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One answer, or what it grew by in a stream."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionResponse(msgspec.Struct, kw_only=True):
    """The body of an answer, or one event of a stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
