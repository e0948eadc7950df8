"""The listening socket, opened before anything slow begins."""

from __future__ import annotations

import errno
import socket

from ferrule.errors import OptionError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket that the server will accept from.

    A port that is taken is found out at once, and not after the model has loaded.

    Args:
        host: A name or address; ``0.0.0.0`` or ``::`` is every interface.
        port: 0 takes any free one.

    Raises:
        OptionError: The host is unknown, or the port is taken or not allowed.
    """
    # Checked here because the resolver takes a larger number modulo 65536.
    if not 0 <= port <= 65535:
        raise OptionError(
            f"port {port} does not exist; ports are 0 to 65535",
            hint="The usual one is --port 8000.",
        )
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"--host {host} --port {port} is no address to listen on: {error}",
            hint="Use 127.0.0.1 for this machine only, or 0.0.0.0 for every interface.",
        ) from error
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Until it listens, a second server could bind the same port.
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(host, port, error) from error
    sock.setblocking(False)
    return sock


def _refused(host: str, port: int, error: OSError) -> OptionError:
    match error.errno:
        case errno.EADDRINUSE:
            return OptionError(
                f"port {port} on {host} is in use by another program",
                hint=f"Stop that program, or choose another port: --port {_another(port)}",
            )
        case errno.EACCES:
            return OptionError(
                f"listening on port {port} is not allowed for this user",
                hint="Choose a port from 1024 on, such as --port 8000.",
            )
        case errno.EADDRNOTAVAIL:
            return OptionError(
                f"{host} is not an address of this machine",
                hint="Use 127.0.0.1 for this machine only, or 0.0.0.0 for every interface.",
            )
        case _:
            return OptionError(f"cannot listen on {host} port {port}: {error.strerror}")


def _another(port: int) -> int:
    return port + 1 if port < 65535 else 8000
