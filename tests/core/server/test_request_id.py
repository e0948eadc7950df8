from __future__ import annotations

import pytest

BODY = {"model": "fake", "prompt": "Hello", "max_tokens": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_id_comes_back(client, stream):
    response = await client.post(
        "/v1/completions", json={**BODY, "stream": stream}, headers={"X-Request-Id": "mine-1"}
    )
    assert response.headers["x-request-id"] == "mine-1"


async def test_every_answer_has_an_id_of_its_own(client):
    paths = ["/health", "/health", "/nowhere", "/v1/models/unknown"]
    ids = {(await client.get(path)).headers["x-request-id"] for path in paths}
    assert len(ids) == 4


@pytest.mark.parametrize("sent", ["x" * 129, "a\tb", "\xe9"])
async def test_ids_unfit_for_logs_are_replaced(client, sent):
    response = await client.get("/health", headers={"x-request-id": sent.encode("latin-1")})
    assert len(response.headers["x-request-id"]) == 32


async def test_same_client_id_twice_at_once_is_no_clash(client, engine):
    await client.post("/v1/completions", json=BODY, headers={"x-request-id": "same"})
    await client.post("/v1/completions", json=BODY, headers={"x-request-id": "same"})
    assert len({request.id for request in engine.requests}) == 2
