"""What chat and text completions have in common on the wire."""

from __future__ import annotations

from typing import Any

import msgspec

JsonObject = dict[str, Any]


class StreamOptions(msgspec.Struct, kw_only=True):
    """How a stream ends.

    Attributes:
        include_usage: A last chunk without choices tells how many tokens were used.
    """

    include_usage: bool = False


class GenerationRequest(msgspec.Struct, kw_only=True):
    """Fields that both kinds of completion take; None means that the model's default holds.

    Attributes:
        model: One of the served names.
        max_tokens: Most tokens to generate.
        max_completion_tokens: OpenAI's newer name for it; wins where both are given.
        min_tokens: Before this many nothing but ``max_tokens`` can end the answer.
        temperature: 0 is greedy.
        top_p: Smallest set of likeliest tokens whose probability reaches this.
        top_k: Only the k likeliest tokens; 0 or -1 is off.
        min_p: Only tokens at least this share as likely as the likeliest.
        repetition_penalty: For tokens seen in prompt or output.
        presence_penalty: Once for tokens in the output.
        frequency_penalty: For each time a token is in the output.
        logit_bias: Added to the logits of these token ids.
        seed: Makes the draw repeatable; 0 is a seed like any other.
        stop: Texts that end the answer.
        stop_token_ids: Tokens that end the answer.
        ignore_eos: The model's own eos tokens do not end the answer.
        n: How many answers.
        stream: Whether the answer comes piece by piece.
        stream_options: How a stream ends.
        return_token_ids: Whether token ids are given beside the text.
        skip_special_tokens: Whether special tokens are left out of the text.
        cache_salt: Cached prefixes are shared only with requests of the same salt.
    """

    model: str
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    skip_special_tokens: bool = True
    cache_salt: str | None = None


class PromptTokensDetails(msgspec.Struct):
    """Which part of the prompt needed no computation."""

    cached_tokens: int


class Usage(msgspec.Struct, kw_only=True):
    """How many tokens a request took; a prompt counts once however many answers it got."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ModelCard(msgspec.Struct, kw_only=True):
    """One entry of the list of models; an adapter has a parent and comes from its root."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "ferrule"
    root: str
    parent: str | None
    max_model_len: int | None


class ModelList(msgspec.Struct, kw_only=True):
    """All models that requests may name."""

    object: str = "list"
    data: list[ModelCard]


class ErrorDetail(msgspec.Struct, kw_only=True):
    """OpenAI's description of what went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    """The envelope of every error."""

    error: ErrorDetail
