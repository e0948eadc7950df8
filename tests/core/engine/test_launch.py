from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ferrule.engine.launch import EngineLaunch

WORKER = Path(__file__).with_name("fake_worker.py")
COMMAND = [sys.executable, str(WORKER)]


def test_a_launch_that_nobody_takes_up_leaves_nothing():
    with closing(EngineLaunch(COMMAND)) as launch:
        directory = Path(launch.address.removeprefix("ipc://")).parent
        assert launch.child.pid
        assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ProcessLookupError):
        os.kill(launch.child.pid, 0)
    assert not directory.exists()


def test_a_program_that_does_not_exist_is_an_error_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        EngineLaunch(["/no/such/program"])
    assert not list(tmp_path.iterdir())


def test_an_engine_whose_parent_died_while_it_started_ends(tmp_path):
    # The parent that it is told of is gone before it can look.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    orphan = subprocess.Popen([*COMMAND, f"ipc://{tmp_path}/engine", str(gone.pid)])
    assert orphan.wait(timeout=20) == 1
