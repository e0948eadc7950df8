"""From a request's body to a checked struct, or to an error that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ferrule.errors import RequestError
from ferrule.server.schema import JsonObject

T = TypeVar("T")

_PATH = re.compile(r"`\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")

# Fields of OpenAI's API and of other servers that would change the answer and are not served,
# each with the values that ask for nothing. Whatever is neither here nor in the schema is ignored:
# clients send new fields all the time, and most only label the request.
_NOTHING: tuple[Any, ...] = (None, False, [], {}, "")
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": _NOTHING,
    "audio": _NOTHING,
    "bad_words": _NOTHING,
    "chat_template": _NOTHING,
    "documents": _NOTHING,
    "function_call": (*_NOTHING, "none", "auto"),
    "functions": _NOTHING,
    "guided_choice": _NOTHING,
    "guided_grammar": _NOTHING,
    "guided_json": _NOTHING,
    "guided_regex": _NOTHING,
    "include_stop_str_in_output": _NOTHING,
    "length_penalty": (*_NOTHING, 1),
    "logits_processors": _NOTHING,
    "lora": _NOTHING,
    "modalities": (*_NOTHING, ["text"]),
    "prediction": _NOTHING,
    "prompt_embeds": _NOTHING,
    "reasoning_effort": _NOTHING,
    "response_format": (*_NOTHING, {"type": "text"}),
    "structured_outputs": _NOTHING,
    "suffix": _NOTHING,
    "truncate_prompt_tokens": _NOTHING,
    "use_beam_search": _NOTHING,
    "web_search_options": _NOTHING,
}


def parse(body: bytes, kind: type[T]) -> tuple[T, JsonObject]:
    """The body as a struct, and as plain JSON for what templates may read beyond the struct.

    Args:
        body: JSON.
        kind: The struct.

    Raises:
        RequestError: It is no JSON, a field is missing or of the wrong type, or a field asks for
            something that is not served.
    """
    try:
        plain: Any = msgspec.json.decode(body)
        request = msgspec.convert(plain, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise RequestError(str(error), param=_param(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    _refuse_unsupported(plain)
    return request, plain


def _param(message: str) -> str | None:
    """The path of the field that msgspec complains of: ``messages[0].role``."""
    found = _PATH.search(message)
    path = found["path"] if found else ""
    if missing := _MISSING.search(message):
        path = f"{path}.{missing['field']}" if path else missing["field"]
    return path or None


def _refuse_unsupported(plain: JsonObject) -> None:
    for field in plain.keys() & UNSUPPORTED.keys():
        value = plain[field]
        # "False == 0" in Python, so that 0 would pass for nothing; it does no harm either way.
        if value not in UNSUPPORTED[field]:
            raise RequestError(
                f"{field} is not supported yet, and ignoring it would change the answer",
                param=field,
                code="unsupported_parameter",
                hint=_hint(field),
            )


def _hint(field: str) -> str:
    match field:
        case "reasoning_effort" | "documents":
            return "If the chat template knows it, put it into chat_template_kwargs."
        case "chat_template":
            return "Start the server with --chat-template FILE."
        case _:
            return f"Leave {field} out."
