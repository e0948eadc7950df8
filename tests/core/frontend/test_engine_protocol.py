from __future__ import annotations

import inspect

import pytest

from ferrule.engine.client import EngineClient
from ferrule.frontend.engine_protocol import EngineProtocol


@pytest.mark.parametrize("name", ["submit", "abort", "stop"])
def test_the_client_takes_what_the_protocol_gives(name):
    wanted = inspect.signature(getattr(EngineProtocol, name)).parameters
    offered = inspect.signature(getattr(EngineClient, name)).parameters
    assert list(offered)[: len(wanted)] == list(wanted)
    extra = list(offered.values())[len(wanted) :]
    assert all(parameter.default is not parameter.empty for parameter in extra)


def test_a_client_that_has_not_started_has_a_status_and_figures():
    client = EngineClient()
    assert client.status.state == "starting"
    assert client.stats.running == 0
