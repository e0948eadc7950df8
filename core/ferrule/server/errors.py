"""Every error as OpenAI's envelope: status, type, field and code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import MediaType, Response
from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from ferrule.errors import (
    EngineDeadError,
    EngineStartingError,
    FerruleError,
    ModelNotFoundError,
    RequestError,
)
from ferrule.server.schema import ErrorBody, ErrorDetail

_logger = logging.getLogger(__name__)
_RETRY_SECONDS = "5"
_CLIENT_LEFT = 499  # nginx's status for it; nobody is there to read it
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


class ClientLeftError(Exception):
    """The client closed the connection before its answer was ready."""


class ServerStoppingError(FerruleError):
    """The server is shutting down and the time for running requests is over."""


class StatusError(RequestError):
    """A request that is wrong in a way with a status of its own.

    Args:
        status: Of HTTP.
        message: What was found and what was expected.
        param: The field at fault.
        code: Machine-readable.
        hint: The next step.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, param=param, code=code, hint=hint)
        self.status = status


def exception_handlers() -> ExceptionHandlersMap:
    """The table that the application uses."""
    return {
        ClientLeftError: _answer_nobody,
        FerruleError: _answer_ferrule_error,
        HTTPException: _answer_http_exception,
        Exception: _answer_unexpected,
    }


def error_body(error: Exception) -> ErrorBody:
    """The envelope of an error, as a body or as an event of a stream that has begun.

    An error that is not ours is logged, and its text, which may hold anything, is kept back.
    """
    if isinstance(error, FerruleError):
        status = _status(error)
        request_error = error if isinstance(error, RequestError) else None
        return _envelope(
            _sentences(error),
            status,
            param=request_error and request_error.param,
            code=_code(error),
        )
    _logger.error("an unexpected error ended a request", exc_info=error)
    return _envelope("The server failed; its log says why.", 500)


def _answer_ferrule_error(_: Request[Any, Any, Any], error: FerruleError) -> Response[bytes]:
    headers = {"retry-after": _RETRY_SECONDS} if isinstance(error, EngineStartingError) else {}
    return _respond(error_body(error), _status(error), headers)


def _answer_http_exception(
    request: Request[Any, Any, Any], error: HTTPException
) -> Response[bytes]:
    match error.status_code:
        case 404:
            text = f"There is no {request.url.path} here."
        case 405:
            text = f"{request.url.path} does not take {request.method}."
        case _:
            text = error.detail
    body = _envelope(text, error.status_code, code=_CODES.get(error.status_code))
    return _respond(body, error.status_code, error.headers or {})


def _answer_unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _respond(error_body(error), 500, {})


def _answer_nobody(_: Request[Any, Any, Any], __: ClientLeftError) -> Response[bytes]:
    return Response(b"", status_code=_CLIENT_LEFT, media_type=MediaType.JSON)


def _respond(body: ErrorBody, status: int, headers: Mapping[str, str]) -> Response[bytes]:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers=dict(headers),
        media_type=MediaType.JSON,
    )


def _envelope(
    message: str, status: int, *, param: str | None = None, code: str | None = None
) -> ErrorBody:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorBody(ErrorDetail(message=message, type=kind, param=param, code=code))


def _sentences(error: FerruleError) -> str:
    if not error.hint:
        return error.message
    end = "" if error.message.endswith((".", "!", "?")) else "."
    return f"{error.message}{end} {error.hint}"


def _status(error: FerruleError) -> int:
    match error:
        case StatusError():
            return error.status
        case ModelNotFoundError():
            return 404
        case RequestError():
            return 400
        case EngineDeadError() | EngineStartingError() | ServerStoppingError():
            return 503
        case _:
            return 500


def _code(error: FerruleError) -> str | None:
    match error:
        case RequestError():
            return error.code
        case EngineStartingError():
            return "engine_starting"
        case EngineDeadError():
            return "engine_dead"
        case ServerStoppingError():
            return "server_stopping"
        case _:
            return None
