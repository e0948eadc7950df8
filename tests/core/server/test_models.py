from __future__ import annotations

from ferrule.engine.status import EngineStatus


async def test_every_name_is_listed(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["fake", "org/fake"]
    assert listed["data"][1] == {
        "id": "org/fake",
        "object": "model",
        "created": 1700000000,
        "owned_by": "ferrule",
        "root": "fake",
        "parent": None,
        "max_model_len": 512,
    }


async def test_one_model_by_name_also_with_a_slash(client):
    assert (await client.get("/v1/models/fake")).json()["id"] == "fake"
    assert (await client.get("/v1/models/org/fake")).json()["id"] == "org/fake"
    assert (await client.get("/v1/models/org%2Ffake")).json()["id"] == "org/fake"


async def test_unknown_model_is_404(client):
    response = await client.get("/v1/models/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_models_are_listed_while_starting(client, engine):
    engine.status = EngineStatus(state="starting")
    assert (await client.get("/v1/models/fake")).json()["max_model_len"] is None
