from __future__ import annotations

import ferrule
from ferrule.engine.messages import Progress
from ferrule.engine.status import EngineStatus


async def test_ready(client):
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "model": "fake",
        "architecture": "fake",
        "device": "cpu",
        "dtype": "float32",
        "max_length": 512,
        "running": 2,
        "waiting": 1,
        "kv_used": 0.5,
    }


async def test_starting_tells_the_stage(client, engine):
    progress = Progress("loading weights", 0.25, "4 of 16 GB")
    engine.status = EngineStatus(state="starting", progress=progress)
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {
        "status": "starting",
        "stage": "loading weights",
        "fraction": 0.25,
        "detail": "4 of 16 GB",
    }


async def test_starting_before_the_engine_has_said_a_word(client, engine):
    engine.status = EngineStatus(state="starting")
    response = await client.get("/health")
    assert (response.status_code, response.json()["stage"]) == (503, "starting")


async def test_dead_tells_the_cause(client, engine):
    engine.die("it ended with signal 9")
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "dead", "error": "it ended with signal 9"}


async def test_version(client):
    response = await client.get("/version")
    assert response.json() == {"name": "ferrule", "version": ferrule.__version__}
