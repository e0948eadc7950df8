"""Flags of the commands that listen on a port."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ferrule.cli.engine_flags import flag

_SERVER = "Server"


class LogLevel(StrEnum):
    """What ``--log-level`` takes."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """How to listen, log and stop; the names are those of the flags."""

    host: str
    port: int
    shutdown_timeout: float
    access_log: bool
    log_level: LogLevel


Host = Annotated[
    str,
    flag(
        "--host",
        panel=_SERVER,
        help="Address to listen on. The default is this machine alone; 0.0.0.0 opens the server "
        "to the network.",
    ),
]
Port = Annotated[
    int, flag("--port", panel=_SERVER, min=0, max=65535, help="Port; 0 takes any free one.")
]
ShutdownTimeout = Annotated[
    float,
    flag(
        "--shutdown-timeout",
        panel=_SERVER,
        min=0,
        help="Seconds that running requests may take to finish after Ctrl-C or SIGTERM.",
    ),
]
AccessLog = Annotated[bool, flag("--access-log", panel=_SERVER, help="Log every request.")]
LogLevelFlag = Annotated[
    LogLevel,
    flag("--log-level", panel=_SERVER, help="How much to log; debug shows tracebacks too."),
]


def server_flags(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    shutdown_timeout: ShutdownTimeout = 30.0,
    access_log: AccessLog = False,
    log_level: LogLevelFlag = LogLevel.info,
) -> ServerOptions:
    """The server's options from their flags."""
    return ServerOptions(
        host=host,
        port=port,
        shutdown_timeout=shutdown_timeout,
        access_log=access_log,
        log_level=log_level,
    )
