from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psutil

from ferrule.cli.engine_start import launch_engine


def test_the_process_is_the_worker_with_its_caches_and_not_the_current_directory(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with closing(launch_engine("gpu:1")) as launch:
        process = psutil.Process(launch.child.pid)
        command, variables = process.cmdline(), process.environ()
    # -P: what lies in the current directory is not imported.
    assert command[1:5] == ["-P", "-m", "ferrule.worker", "gpu:1"]
    assert "hugetlb" in variables["GLIBC_TUNABLES"]
    assert tmp_path in Path(variables["TRITON_CACHE_DIR"]).parents
