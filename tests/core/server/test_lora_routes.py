from __future__ import annotations

import pytest
from litestar.testing import AsyncTestClient

from ferrule.engine.status import EngineStatus
from ferrule.server.app import create_app, create_service
from ferrule.server.lora_updates import LoraUpdates

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
async def updating(model, engine, tmp_path):
    (tmp_path / "a").mkdir()
    service = create_service(model, engine, lora_updates=LoraUpdates(roots=(tmp_path,)))
    async with AsyncTestClient(create_app(service)) as client:
        yield client


async def test_loading_choosing_and_unloading(updating, engine, tmp_path):
    path = str(tmp_path / "a")
    loaded = await updating.post(LOAD, json={"lora_name": "x", "lora_path": path})
    assert (loaded.status_code, loaded.json()) == (
        200,
        {
            "status": "success",
            "message": "LoRA adapter 'x' loaded successfully",
            "report": {"num_modules": 1},
        },
    )
    again = await updating.post(LOAD, json={"lora_name": "x", "lora_path": path})
    assert (again.status_code, "already" in again.json()["message"]) == (200, True)

    answer = await updating.post("/v1/completions", json={"model": "x", "prompt": "Hello"})
    assert (answer.json()["model"], engine.requests[-1].lora) == ("x", "a")
    await updating.post("/v1/completions", json={"model": "fake", "prompt": "Hello"})
    assert engine.requests[-1].lora == ""

    gone = await updating.post(UNLOAD, json={"lora_name": "x"})
    assert gone.json() == {
        "status": "success",
        "message": "LoRA adapter 'x' unloaded successfully",
    }
    answer = await updating.post("/v1/completions", json={"model": "x", "prompt": "Hello"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (LOAD, {"lora_name": "x"}, "lora_path"),
        (LOAD, {"lora_name": "", "lora_path": "a"}, "lora_name"),
        (LOAD, {"lora_name": 3, "lora_path": "a"}, "lora_name"),
        (UNLOAD, {}, "lora_name"),
    ],
)
async def test_wrong_bodies_name_the_field(updating, route, body, param):
    refused = await updating.post(route, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_nothing_is_loaded_before_the_engine_is_ready(updating, engine):
    engine.status = EngineStatus(state="starting")
    refused = await updating.post(LOAD, json={"lora_name": "x", "lora_path": "a"})
    assert refused.status_code == 503
