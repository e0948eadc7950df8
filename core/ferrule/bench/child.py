"""A server of our own for the time of a measurement."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from typing import IO, Any

import msgspec

from ferrule.bench.signals import ended_by_signals
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError

# Where we are killed, Linux ends the server too: PR_SET_PDEATHSIG is 1 in <linux/prctl.h>.
_PROGRAM = f"""
import ctypes
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
from ferrule.__main__ import main
main()
"""
# -P: a torch.py in the directory that the user stands in must not be imported.
SERVE = (sys.executable, "-P", "-c", _PROGRAM, "serve")
# Flags that are not called as the option that they set.
_FLAGS = {"plugins": "plugin"}
_POLL_SECONDS = 0.1
_END_SECONDS = 10
_NUM_LAST_LINES = 20
_ERROR = "error: "


@contextlib.contextmanager
def serving(
    options: EngineOptions, report: Callable[[Progress], None], serve: Sequence[str] = SERVE
) -> Generator[str]:
    """Runs ``ferrule serve`` on a free port; however the context is left, the server ends.

    Args:
        options: Of the engine.
        report: Told of each stage of the start.
        serve: The command, for tests.

    Yields:
        The server's URL.

    Raises:
        FerruleError: It ended before it was ready; the message has its last lines.
    """
    port = _free_port()
    command = [*serve, *serve_flags(options), "--host", "127.0.0.1", "--port", str(port)]
    # Whoever leaves early waits for no answers.
    command += ["--shutdown-timeout", "0", "--log-level", "warning"]
    with tempfile.TemporaryFile() as log, ended_by_signals():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            # Ctrl-C is for us; we end the server.
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log, report)
            yield url
            if process.poll() is not None:
                raise _error("the server ended while it was measured", log)
        finally:
            _end(process)


def serve_flags(options: EngineOptions) -> list[str]:
    """The flags of ``ferrule serve`` that give these options."""
    flags: list[str] = []
    for field in msgspec.structs.fields(EngineOptions):
        value: Any = getattr(options, field.name)
        name = _FLAGS.get(field.name, field.name).replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{name}")
        elif isinstance(value, tuple):
            flags += [f"--{name}={each}" for each in value]
        else:
            flags.append(f"--{name}={value}")
    return flags


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


_CACHE = "FERRULE_CACHE_DIR"


def _environment() -> dict[str, str]:
    """Ours without the variables of flags: what they say is in the options already."""
    kept = (name for name in os.environ if not name.startswith("FERRULE_") or name == _CACHE)
    return {name: os.environ[name] for name in kept}


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    url: str,
    log: IO[bytes],
    report: Callable[[Progress], None],
) -> None:
    report(Progress("starting the server"))
    while True:
        if process.poll() is not None:
            raise _error("the server ended before it was ready", log)
        health = _health(url)
        if health.get("status") == "ready":
            return
        if stage := health.get("stage"):
            report(Progress(stage, health.get("fraction"), health.get("detail", "")))
        time.sleep(_POLL_SECONDS)


def _health(url: str) -> dict[str, Any]:
    """What ``/health`` says; nothing while nobody answers."""
    # Proxies of the environment are for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error) if error.code == 503 else {}
    except (OSError, http.client.HTTPException):
        return {}


def _error(what: str, log: IO[bytes]) -> FerruleError:
    """The server's own error, or its last lines where it had no words of its own."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    if not starts:
        return FerruleError("\n".join((f"{what}; it said:", *lines[-_NUM_LAST_LINES:])))
    said = "\n".join(lines[starts[-1] :]).removeprefix(_ERROR)
    message, _, hint = said.partition("\nhint: ")
    return FerruleError(f"{what}: {message}", hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, and kills it where that takes too long or somebody presses Ctrl-C again."""
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # The engine's process sees that its server is gone, and ends too.
        process.kill()
        process.wait()
