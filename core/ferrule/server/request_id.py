"""One id for each HTTP request: the client's own where it sends one."""

from __future__ import annotations

import uuid

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

HEADER = "x-request-id"
_MAX_LENGTH = 128
_STATE_KEY = "ferrule_request_id"


def request_id(scope: Scope) -> str:
    """The request's id, made on first sight.

    A header that is overlong or not printable ASCII is not taken over, since it goes into logs and
    into the answer's headers.
    """
    state = scope["state"]
    if _STATE_KEY not in state:
        sent = dict(scope["headers"]).get(HEADER.encode(), b"").decode("latin-1")
        is_fine = 0 < len(sent) <= _MAX_LENGTH and sent.isascii() and sent.isprintable()
        state[_STATE_KEY] = sent if is_fine else new_id()
    return state[_STATE_KEY]


def new_id() -> str:
    """An id that nothing else has."""
    return uuid.uuid4().hex


async def add_request_id(message: Message, scope: Scope) -> None:
    """Puts the id into an answer's headers; a ``before_send`` hook."""
    if message["type"] == "http.response.start":
        MutableScopeHeaders(message)[HEADER] = request_id(scope)
