from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _fake_server():
    # pytest's importlib mode puts no test directory on sys.path; the server's tests use this file
    # too, and whoever comes first loads it.
    name = "fake_server"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "server" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


fake = _fake_server()


@pytest.fixture
def engine():
    return fake.FakeEngine()


@pytest.fixture
def model():
    return fake.make_model()


@pytest.fixture
def tokenizer():
    return fake.make_tokenizer()
