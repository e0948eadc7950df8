"""From chat messages to the prompt that a model's template makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ferrule.errors import RequestError, TokenizerError
from ferrule.frontend.model import ServedModel
from ferrule.frontend.prepare import tokenize

Message = Mapping[str, Any]

_OWN_VARIABLES = {
    "add_generation_prompt",
    "continue_final_message",
    "documents",
    "messages",
    "tools",
}


def render_chat(
    model: ServedModel,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """The tokens of a conversation.

    The template writes every special token itself, BOS included, as in transformers'
    ``apply_chat_template``.

    Args:
        model: Whose template and tokenizer.
        messages: OpenAI's: ``role``, ``content`` (a text or a list of text parts), and whatever
            else the template may read.
        tools: OpenAI's tool definitions, for templates that know them.
        add_generation_prompt: Whether the assistant's turn is opened; None: unless the final
            message is continued.
        continue_final_message: The answer continues the last message.
        template_kwargs: More variables for the template.

    Raises:
        RequestError: There is no template or tokenizer, a message holds something that is not
            text, or the template refuses the conversation.
    """
    if add_generation_prompt is None:
        add_generation_prompt = not continue_final_message
    if add_generation_prompt and continue_final_message:
        raise RequestError(
            "add_generation_prompt opens a new message and continue_final_message continues the "
            "last one; only one of them can be true",
            param="continue_final_message",
        )
    if taken := _OWN_VARIABLES.intersection(template_kwargs or {}):
        raise RequestError(
            f"chat_template_kwargs holds {', '.join(sorted(taken))}, which the request itself sets",
            param="chat_template_kwargs",
        )
    if model.tokenizer is None or model.template is None:
        missing = "tokenizer" if model.tokenizer is None else "chat template"
        raise RequestError(
            f"{model.name} has no {missing}, so it cannot serve chat",
            param="messages",
            hint="Use /v1/completions"
            + (" with token ids." if model.tokenizer is None else ", or set --chat-template FILE."),
        )
    try:
        text = model.template.render(
            [_message(message, index) for index, message in enumerate(messages)],
            tools=list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(template_kwargs or {}),
        )
    except TokenizerError as error:
        raise RequestError(error.message, param="messages", hint=error.hint) from error
    return tokenize(model, text, add_special_tokens=False, param="messages")


def prompt_tokens(model: ServedModel, prompt: str | Sequence[int] | Sequence[Message]) -> list[int]:
    """The tokens of a text, of token ids, or of a conversation."""
    if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
        return render_chat(model, cast("Sequence[Message]", prompt))
    return tokenize(model, cast("str | Sequence[int]", prompt))


def _message(message: Message, index: int) -> dict[str, Any]:
    """The same with its content as one text, under a role that templates know."""
    rendered = dict(message)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"message {index} has no role", param=f"messages[{index}].role")
    content = message.get("content")
    if isinstance(content, list):
        rendered["content"] = _joined(content, index)
    elif content is None and not message.get("tool_calls"):
        raise RequestError(f"message {index} has no content", param=f"messages[{index}].content")
    if message["role"] == "developer":
        # OpenAI's later name for it; templates of the models served here do not know it.
        rendered["role"] = "system"
    return rendered


def _joined(parts: Sequence[Any], index: int) -> str:
    texts: list[str] = []
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f"a message part of type {kind!r} was sent, and this server takes text only",
                param=f"messages[{index}].content[{number}]",
            )
        texts.append(part["text"])
    return "\n".join(texts)
