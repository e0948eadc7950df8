from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def _import_beside(name):
    # pytest's importlib mode puts no test directory on sys.path.
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_server():
    """The module of the server that stands in for real ones."""
    return _import_beside("fake_server")


@pytest.fixture
def server(fake_server):
    with fake_server.FakeServer() as running:
        yield running


@pytest.fixture(scope="session")
def make_point():
    """``make_point(concurrency=8)`` gives figures as a measurement does."""
    return _import_beside("made").make_point


@pytest.fixture(scope="session")
def make_report():
    """``make_report(points)`` gives a whole report."""
    return _import_beside("made").make_report
