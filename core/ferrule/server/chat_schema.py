"""What ``/v1/chat/completions`` takes and gives."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ferrule.server.schema import GenerationRequest, JsonObject, Usage


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message of a conversation; what else it holds is left to the template."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[JsonObject] | None = None
    name: str | None = None
    tool_calls: list[JsonObject] | None = None
    tool_call_id: str | None = None


class ToolFunction(msgspec.Struct, kw_only=True):
    """A function that the model may ask for."""

    name: str
    description: str | None = None
    parameters: JsonObject | None = None


class Tool(msgspec.Struct, kw_only=True):
    """A tool; the template writes it into the prompt."""

    type: Literal["function"]
    function: ToolFunction


class ChatRequest(GenerationRequest, kw_only=True):
    """The body of a chat request.

    Attributes:
        messages: The conversation.
        tools: For templates that know tools.
        tool_choice: "auto" or "none".
        logprobs: Whether to report log probabilities.
        top_logprobs: How many alternatives to report beside each token.
        add_generation_prompt: Whether the assistant's turn is opened.
        continue_final_message: The answer continues the last message.
        chat_template_kwargs: More variables for the template.
    """

    messages: list[ChatMessage]
    tools: list[Tool] | None = None
    tool_choice: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: JsonObject | None = None


class TopLogprob(msgspec.Struct, kw_only=True):
    """One token that could have stood at a position."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob, kw_only=True):
    """The token that stands there, and the likeliest ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, kw_only=True):
    """One entry for each token of the answer."""

    content: list[ContentLogprob]
    refusal: None = None


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The assistant's message."""

    role: str = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """One whole answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatResponse(msgspec.Struct, kw_only=True):
    """The body of an answer that comes at once."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET


class MessageDelta(msgspec.Struct, kw_only=True):
    """What a message grew by."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, kw_only=True):
    """What one answer grew by."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, kw_only=True):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
