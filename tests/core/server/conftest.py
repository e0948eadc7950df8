from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from litestar.testing import AsyncTestClient


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
    from ferrule.server.app import create_service

    return create_service(model, engine)


@pytest.fixture
async def client(service):
    from ferrule.server.app import create_app

    async with AsyncTestClient(create_app(service)) as test_client:
        yield test_client


@pytest.fixture
async def live_server(service):
    """The service on a real port: its base URL."""
    import asyncio

    from ferrule.server.listen import listen
    from ferrule.server.serve import HttpServer

    async def start():
        return service.engine.info

    sock = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    server = HttpServer(service, sock, shutdown_seconds=1)
    running = asyncio.create_task(server.run(start, lambda info: None))
    yield url
    server.stop()
    async with asyncio.timeout(10):
        await running
