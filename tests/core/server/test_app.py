from __future__ import annotations

from ferrule.server.app import create_app


async def test_every_route_is_there(service):
    paths = {route.path for route in create_app(service).routes}
    assert paths == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model_id:path}",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/health",
        "/version",
        "/metrics",
    }


async def test_nothing_is_loaded_from_elsewhere(client):
    assert (await client.get("/schema")).status_code == 404
