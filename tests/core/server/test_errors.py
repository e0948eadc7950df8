from __future__ import annotations

import logging

import pytest

from ferrule.engine.messages import Progress
from ferrule.engine.status import EngineStatus
from ferrule.errors import EngineDeadError, EngineStartingError, RequestError, TokenizerError
from ferrule.server.errors import ServerStoppingError, error_body

CHAT = "/v1/chat/completions"
BODY = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


async def test_unknown_model_is_404_and_lists_the_served_ones(client):
    response = await client.post(CHAT, json={**BODY, "model": "gpt-4"})
    error = response.json()["error"]
    assert response.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"] == "the model 'gpt-4' is not served here; served: fake, org/fake"


async def test_missing_model_names_the_field(client):
    response = await client.post(CHAT, json={"messages": []})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"model": "a\x00'])
async def test_body_that_is_no_json_is_400(client, content):
    response = await client.post(CHAT, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the body is not valid JSON")


@pytest.mark.parametrize("content", [b"[]", b"5", b'"x"', b"null"])
async def test_json_that_is_no_object_is_400(client, content):
    response = await client.post(CHAT, content=content)
    assert response.status_code == 400
    assert "object" in response.json()["error"]["message"]


async def test_too_long_is_400_with_both_lengths(client):
    response = await client.post(
        "/v1/completions", json={"model": "fake", "prompt": [5] * 500, "max_tokens": 20}
    )
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert "512 tokens" in error["message"]
    assert "the prompt has 500, and max_tokens asks for 20 more (520 in all)" in error["message"]


async def test_unknown_path_and_method_use_the_envelope(client):
    response = await client.get("/v2/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"
    response = await client.get(CHAT)
    assert response.status_code == 405
    assert response.json()["error"]["message"] == f"{CHAT} does not take GET."
    assert "POST" in response.headers["allow"]


async def test_oversized_body_is_413(service):
    from litestar.testing import AsyncTestClient

    from ferrule.server.app import create_app

    app = create_app(service)
    async with AsyncTestClient(app) as client:
        response = await client.post(
            CHAT, content=b" ", headers={"content-length": str(2**40), "content-type": "text/plain"}
        )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_starting_engine_is_503_and_says_when_to_come_back(client, engine):
    engine.status = EngineStatus(state="starting", progress=Progress("loading weights", 0.5))
    response = await client.post(CHAT, json=BODY)
    error = response.json()["error"]
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert (error["type"], error["code"]) == ("server_error", "engine_starting")
    assert "loading weights" in error["message"]


async def test_dead_engine_is_503_with_the_cause(client, engine):
    engine.die("it ended with signal 9")
    response = await client.post(CHAT, json=BODY)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_dead"
    assert "signal 9" in response.json()["error"]["message"]


async def test_unexpected_failure_is_500_logged_and_kept_back(client, service, caplog):
    def explode(request, inbox):
        raise ZeroDivisionError("secret detail")

    service.engine.submit = explode
    with caplog.at_level(logging.ERROR):
        response = await client.post(CHAT, json=BODY)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (RequestError("x", code="c"), "invalid_request_error", "c"),
        (EngineStartingError("x"), "server_error", "engine_starting"),
        (EngineDeadError("x"), "server_error", "engine_dead"),
        (ServerStoppingError("x"), "server_error", "server_stopping"),
        (TokenizerError("x"), "server_error", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_error_has_its_type_and_code(error, kind, code):
    detail = error_body(error).error
    assert (detail.message, detail.type, detail.code) == ("x", kind, code)


def test_hint_follows_the_message():
    error = RequestError("too long", hint="Shorten it.")
    assert error_body(error).error.message == "too long. Shorten it."
