"""Conversations to text, by the template that comes with a model."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from ferrule.errors import RequestError, TokenizerError
from ferrule.tokenizer.chat_messages import parse_arguments, plain, prepare_messages
from ferrule.tokenizer.template_sandbox import TemplateRefusal, TemplateSandbox

_MAX_SECONDS = 10.0
_MAX_CHARACTERS = 1 << 24
# Written behind the message to be continued, to find its end. The space shows whether the
# template keeps spaces at the end of a message.
_CONTINUED_HERE = "FERRULE_CONTINUES_THIS_MESSAGE "


class ChatTemplate:
    """A chat template, compiled once; renders what transformers' ``apply_chat_template`` does.

    Args:
        source: The template.
        special_tokens: What it may write for ``bos_token`` and the like.
        tools_source: Another template for conversations with tools, where the model has one.
        max_seconds: How long one rendering may take.
        max_characters: How long its output, and every text on the way, may be.

    Raises:
        TokenizerError: The template is broken; the message has the line.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        *,
        tools_source: str | None = None,
        max_seconds: float = _MAX_SECONDS,
        max_characters: int = _MAX_CHARACTERS,
    ) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._sandbox = TemplateSandbox(max_seconds=max_seconds, max_characters=max_characters)
        self._template = self._compile(source)
        self._tools_template = None if tools_source is None else self._compile(tools_source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: object,
    ) -> str:
        """Write a conversation as the text that the model was trained on.

        Special tokens, BOS among them, are in the text: encode it with
        ``add_special_tokens=False``.

        Args:
            messages: The conversation, in the form of OpenAI's API. Arguments of tool calls may be
                JSON text; the template gets them parsed, or as text if it fails otherwise.
            tools: Descriptions of the functions that the model may call.
            documents: Texts to answer from.
            add_generation_prompt: Whether the header of the model's answer comes last.
            continue_final_message: Whether the text ends with the last message, left open to be
                continued.
            **kwargs: More variables for the template, such as ``enable_thinking``. They go before
                the special tokens.

        Raises:
            RequestError: The template refuses the conversation, or cannot render it.
            TokenizerError: The template tried what it may not, or exceeds its time or size.
        """
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "continue_final_message and add_generation_prompt are both set; "
                "the last message is continued, or a new one begun",
                param="continue_final_message",
            )
        try:
            conversation = prepare_messages(messages)
            variables = {
                **self._special_tokens,
                **{name: plain(value, name) for name, value in kwargs.items()},
                "tools": plain(tools, "tools"),
                "documents": plain(documents, "documents"),
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
            }
        except RecursionError as error:
            raise RequestError("the request is nested too deeply", param="messages") from error
        template = self._template if tools is None else self._tools_template or self._template
        if not continue_final_message:
            return self._render(template, conversation, variables)
        text = _mark_end(conversation[-1])
        return _cut_behind(text, self._render(template, conversation, variables))

    def _compile(self, source: str) -> jinja2.Template:
        try:
            return self._sandbox.load(source)
        except jinja2.TemplateSyntaxError as error:
            line = source.splitlines()[error.lineno - 1 : error.lineno]
            raise TokenizerError(
                f"the chat template is broken in line {error.lineno}: {error.message}"
                + "".join(f"\n    {text.strip()[:200]}" for text in line),
                hint="Give another one with --chat-template FILE.",
            ) from error
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise TokenizerError(
                f"the chat template is nested too deeply: {type(error).__name__}: {error}",
                hint="Give another one with --chat-template FILE.",
            ) from error

    def _render(
        self,
        template: jinja2.Template,
        conversation: list[dict[str, Any]],
        variables: dict[str, Any],
    ) -> str:
        parsed = parse_arguments(conversation)
        try:
            return self._run(template, {**variables, "messages": parsed})
        except RequestError:
            if parsed is conversation:
                raise
            return self._run(template, {**variables, "messages": conversation})

    def _run(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        try:
            return self._sandbox.run(template, variables)
        except TemplateRefusal as error:
            raise RequestError(
                f"the chat template refuses the conversation: {error.message}", param="messages"
            ) from error
        except SecurityError as error:
            raise TokenizerError(
                f"the chat template was stopped: {error.message}{_place(error)}",
                hint="Give another one with --chat-template FILE.",
            ) from error
        except Exception as error:  # a template may fail in every way that Python code can
            raise RequestError(
                "the chat template cannot render the conversation: "
                f"{type(error).__name__}: {error}{_place(error)}",
                param="messages",
            ) from error


def _mark_end(message: dict[str, Any]) -> str:
    """Put the mark behind the message's text, which is returned as it was."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _CONTINUED_HERE
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            part["text"] = text + _CONTINUED_HERE
            return text
    raise RequestError(
        "continue_final_message is set, but the last message has no text to continue",
        param="continue_final_message",
    )


def _cut_behind(text: str, rendered: str) -> str:
    """The rendered conversation up to the end of the last message's text."""
    before, mark, after = rendered.rpartition(_CONTINUED_HERE.strip())
    if not mark or text.strip() not in before:
        raise RequestError(
            "continue_final_message is set, but the chat template leaves out "
            "or changes the last message's text",
            param="continue_final_message",
        )
    # Where the template removes spaces at the end of messages, it has to have them removed here
    # as well, so that the model goes on from what it would have seen.
    return before if after.startswith(" ") else before.rstrip()


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
    return f" (line {lines[-1]} of the template)" if lines else ""
