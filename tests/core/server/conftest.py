from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest
from litestar.testing import AsyncTestClient

from ferrule.errors import EngineDeadError
from ferrule.server.app import create_app, create_service
from ferrule.server.listen import listen
from ferrule.server.serve import HttpServer


def _import_beside(name):
    # pytest's importlib mode puts no test directory on sys.path, and the same file also runs as a
    # server process of its own.
    if name not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


fake = _import_beside("fake_server")


@pytest.fixture
def engine():
    return fake.FakeEngine()


@pytest.fixture
def model():
    return fake.make_model()


@pytest.fixture
def service(model, engine):
    return create_service(model, engine)


@pytest.fixture
async def client(service):
    async with AsyncTestClient(create_app(service)) as test_client:
        yield test_client


@pytest.fixture
async def live_server(service):
    """The service on a real port: its base URL."""

    async def start():
        return service.engine.info

    sock = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = HttpServer(service, sock, shutdown_seconds=1)
    running = asyncio.create_task(server.run(start, lambda info: None))
    yield url
    server.stop()
    async with asyncio.timeout(10):
        # Some tests let the engine die.
        with contextlib.suppress(EngineDeadError):
            await running
