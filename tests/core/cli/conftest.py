from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from ferrule.cli.main import app

# Tells at its end whether this process, and not only its child, has imported torch.
MAIN = """
import atexit, sys
atexit.register(lambda: print("torch imported:", "torch" in sys.modules))
from ferrule.__main__ import main
main()
"""


@pytest.fixture(autouse=True)
def no_flags_from_outside(monkeypatch):
    for name in list(os.environ):
        # torch's compiler, once it is imported, leaves its folder in the environment.
        if name.startswith("FERRULE_") or name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture
def ferrule():
    """``ferrule("plugins", "--json")`` runs a command in this process."""
    runner = CliRunner()

    def run(*arguments, **settings):
        return runner.invoke(app, [str(each) for each in arguments], **settings)

    return run


class Process:
    """A command in a process of its own, in a directory that tries to shadow torch."""

    def __init__(self, folder, *arguments):
        trap = folder / "trap"
        trap.mkdir(exist_ok=True)
        (trap / "torch.py").write_text("raise SystemExit('imported from the directory')")
        self.log = folder / "stderr"
        command = [sys.executable, "-P", "-c", MAIN, *map(str, arguments)]
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=trap,
                # Two threads that wait for each other are slow where other programs run too.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def stderr(self):
        return self.log.read_text()

    def wait_for(self, text, seconds=60):
        """Waits until stderr has a text; gives the rest of its line."""
        end = time.monotonic() + seconds
        while text not in self.stderr:
            assert self.process.poll() is None, self.stderr
            assert time.monotonic() < end, self.stderr
            time.sleep(0.05)
        return self.stderr.partition(text)[2].splitlines()[0]

    def end(self, seconds=30):
        """Its stdout, once it has ended by itself."""
        return self.process.communicate(timeout=seconds)[0]


@pytest.fixture
def start(tmp_path):
    """``start("serve", path)`` starts a command; it is killed at the end of the test."""
    started = []

    def start_one(*arguments):
        started.append(Process(tmp_path, *arguments))
        return started[-1]

    yield start_one
    for each in started:
        each.process.kill()
        each.process.communicate()
