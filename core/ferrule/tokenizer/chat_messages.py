"""Conversations in the form that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ferrule.errors import RequestError

# The names that a message's reasoning goes by; templates read the first, some the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class Arguments(dict[str, Any]):
    """A tool call's arguments: a mapping, which prints as the JSON text that they came as."""

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self._text = text

    def __str__(self) -> str:
        return self._text


def plain(value: object, path: str) -> object:
    """A copy made of JSON's types alone, so that a template is given nothing it could misuse.

    Args:
        value: What the request or the caller gave.
        path: Its place, for the error.

    Raises:
        RequestError: Something in it has no counterpart in JSON.
    """
    match value:
        case str():
            return str.__str__(value)  # without what a subclass, such as an enum, adds
        case None | bool() | int() | float():
            return value
        case Mapping():
            items = cast("Mapping[Any, Any]", value).items()
            return {str(key): plain(item, f"{path}.{key}") for key, item in items}
        case list() | tuple():
            items = cast("Sequence[Any]", value)
            return [plain(item, f"{path}[{n}]") for n, item in enumerate(items)]
        case _:
            raise RequestError(
                f"{path} is a {type(value).__name__}; expected text, a number, a list or an object",
                param=path,
            )


def prepare_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copy a conversation, without what is null and with reasoning under every name it goes by.

    OpenAI's clients send ``content: null`` beside tool calls, which templates would print.

    Raises:
        RequestError: There is no message, or one is not an object.
    """
    if not messages:
        raise RequestError("messages is empty; expected at least one message", param="messages")
    return [_message(message, f"messages[{n}]") for n, message in enumerate(messages)]


def parse_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with each tool call's arguments as an object in place of JSON text.

    OpenAI's API carries them as text, most templates want the object. Text that is no JSON object
    stays as it is. Without any such text the conversation itself is returned.
    """
    if not any(message.get("tool_calls") for message in messages):
        return messages
    parsed = [_with_parsed_calls(message) for message in messages]
    return messages if parsed == messages else parsed


def _message(message: object, path: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(
            f"{path} is a {type(message).__name__}; expected an object with role and content",
            param=path,
        )
    copied = cast("dict[str, Any]", plain(message, path))
    kept = {key: value for key, value in copied.items() if value is not None}
    reasoning = next((kept[key] for key in _REASONING if key in kept), None)
    if reasoning is None:
        return kept
    return {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _with_parsed_calls(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_parsed_call(call) for call in cast("list[Any]", calls)]}


def _with_parsed_call(call: object) -> object:
    match call:
        case {"function": {"arguments": str(text)}}:
            # Written over in place, since a template may print the whole call in its order.
            whole = cast("dict[str, Any]", call)
            return {**whole, "function": {**whole["function"], "arguments": _parse(text)}}
        case _:
            return call


def _parse(text: str) -> Arguments | str:
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
    return Arguments(values, text) if isinstance(values, dict) else text
