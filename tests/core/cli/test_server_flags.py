from __future__ import annotations

import pytest

from ferrule.cli.server_flags import server_flags


def test_the_default_is_open_to_this_machine_alone():
    server = server_flags()
    assert (server.host, server.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_cannot_exist_is_a_usage_error(ferrule, port):
    result = ferrule("serve", "model", "--port", port)
    assert result.exit_code == 2
    assert "--port" in result.stderr
