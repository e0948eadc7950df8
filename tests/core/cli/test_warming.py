from __future__ import annotations

import os

import pytest

from ferrule.cli.warming import start_once
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError

# Imported by the engine process alone.
PLUGIN = """
import os
from pathlib import Path

import ferrule

@ferrule.hookimpl
def architectures():
    return []

Path(os.environ["SEEN"]).write_text(f"{os.getpid()}\\n{os.environ['TRITON_CACHE_DIR']}")
"""


def test_an_engine_is_started_as_by_a_server_and_ended(tiny_llama, tmp_path, monkeypatch, capsys):
    plugin = tmp_path / "tells.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("FERRULE_CACHE_DIR", str(tmp_path / "cache"))
    options = EngineOptions(
        model=str(tiny_llama), devices="cpu", num_kv_blocks=64, plugins=(str(plugin),)
    )
    start = start_once(options)
    assert start.device == "cpu"
    assert 0 < start.seconds < 60
    said = capsys.readouterr().err
    stages = ["reading the tokenizer", "starting the engine", "ending the engine"]
    assert [stage for stage in stages if stage in said] == stages
    pid, folder = (tmp_path / "seen").read_text().splitlines()
    assert folder == str(tmp_path / "cache" / "ferrule" / "kernels" / "triton")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_what_the_engine_finds_wrong_is_the_error(tiny_llama):
    with pytest.raises(FerruleError, match="--max-length is 9999"):
        start_once(EngineOptions(model=str(tiny_llama), devices="cpu", max_length=9999))
