from __future__ import annotations

import pytest

from ferrule.errors import OptionError
from ferrule.server.listen import listen


def test_free_port_is_taken_at_once():
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert port > 0
        with pytest.raises(OptionError, match=rf"port {port} .*in use(.|\n)*--port {port + 1}"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "x" * 300])
def test_impossible_address_says_what_helps(host):
    with pytest.raises(OptionError, match=r"0\.0\.0\.0"):
        listen(host, 0)


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_impossible_port_is_refused(port):
    with pytest.raises(OptionError, match="0 to 65535"):
        listen("127.0.0.1", port)
