from __future__ import annotations

import signal
import subprocess
import tarfile
import time
from pathlib import Path

import msgspec
import pytest

from ferrule.cli.kernel_artefact import LABEL, made_here

ENGINE = ("--devices", "cpu", "--kv-cache-page-size", "16", "--num-kv-blocks", "64")
# Plays a compiler: what it keeps is in the folder that the engine process was told of.
PLUGIN = """
import os
from pathlib import Path

import ferrule

@ferrule.hookimpl
def architectures():
    return []

kept = Path(os.environ["TRITON_CACHE_DIR"], "KEY", "norm.cubin")
kept.parent.mkdir(parents=True, exist_ok=True)
kept.write_bytes(bytes(2048))
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """The folder of this test."""
    monkeypatch.setenv("FERRULE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ferrule" / "kernels"


@pytest.fixture
def compiling(tmp_path):
    plugin = tmp_path / "compiling.py"
    plugin.write_text(PLUGIN)
    return ("--plugin", plugin)


def test_a_cpu_needs_no_kernels(ferrule, tiny_llama, kernels):
    result = ferrule("warm-cache", tiny_llama, *ENGINE)
    assert result.exit_code == 0, result.output
    ready, nothing = result.stdout.splitlines()
    assert ready.startswith("ready after ")
    assert ready.endswith(" s on cpu")
    assert nothing == "nothing needs compiling on cpu"


def test_kernels_are_compiled_packed_and_unpacked_elsewhere(
    ferrule, tiny_llama, kernels, compiling, tmp_path, monkeypatch
):
    file = tmp_path / "kernels.tar.gz"
    result = ferrule("warm-cache", tiny_llama, *ENGINE, *compiling, "--out", file)
    assert result.exit_code == 0, result.output
    _, size, written = result.stdout.splitlines()
    assert size == f"kernels: 2 KiB in {kernels}, 2 KiB of it new"
    assert written.startswith(f"written: {file}, ")
    assert "for GPU none" in written
    monkeypatch.setenv("FERRULE_CACHE_DIR", str(tmp_path / "other"))
    result = ferrule("warm-cache", "--from", file, "--devices", "cpu")
    other = tmp_path / "other" / "ferrule" / "kernels"
    assert result.stdout == f"kernels: 2 KiB in {other}\n"
    assert (other / "triton" / "KEY" / "norm.cubin").read_bytes() == bytes(2048)


def test_folders_apart_are_both_named(ferrule, tiny_llama, kernels, compiling, monkeypatch):
    mine = kernels / "mine" / "triton"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(mine))
    result = ferrule("warm-cache", tiny_llama, *ENGINE, *compiling)
    assert f"2 KiB in {mine} and {kernels / 'inductor'}, 2 KiB" in result.stdout


def test_an_artefact_of_other_versions_is_an_error(ferrule, kernels, tmp_path):
    file, label = tmp_path / "kernels.tar.gz", tmp_path / LABEL
    made_for = msgspec.structs.replace(made_here("cpu"), triton="1.0")
    label.write_bytes(msgspec.json.encode(made_for))
    with tarfile.open(file, "w:gz") as archive:
        archive.add(label, LABEL)
    result = ferrule("warm-cache", "--from", file, "--devices", "cpu")
    assert result.exit_code == 1
    assert f"error: --from {file} does not fit this machine:" in result.stderr
    assert "triton: 1.0 in the file" in result.stderr
    assert not kernels.exists()


def test_flags_from_the_environment_do_not_matter_to_a_file(ferrule, kernels, monkeypatch):
    monkeypatch.setenv("FERRULE_MAX_LENGTH", "128")
    monkeypatch.setenv("FERRULE_ENABLE_PREFIX_CACHING", "0")
    result = ferrule("warm-cache", "--from", "none.tar.gz")
    assert "error: --from none.tar.gz: No such file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "missing; give a directory"),
        (("--from", "a", "model"), 1, "MODEL is for a model that is started"),
        (("--from", "a", "--model", "b"), 1, "MODEL is for a model that is started"),
        (("--from", "a", "--out", "b"), 1, "--out is for a model that is started"),
        (("--from", "a", "--dtype", "float32"), 1, "--dtype is for a model that is started"),
        (("--from", "a", "--devices", "gpu:99"), 1, "--devices asks for GPU 99"),
        (("--from", "none.tar.gz"), 1, "--from none.tar.gz: No such file"),
        (("model", "--out", "none/a.tar.gz"), 1, "--out none/a.tar.gz cannot be written"),
        (("model", "--out", "."), 1, "--out . cannot be written"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(ferrule, kernels, arguments, status, message):
    result = ferrule("warm-cache", *arguments)
    assert result.exit_code == status
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert not kernels.exists()


def test_what_the_engine_finds_wrong_is_the_commands_error(ferrule, tiny_llama, kernels):
    result = ferrule("warm-cache", tiny_llama, *ENGINE, "--max-length", "9999")
    assert result.exit_code == 1
    assert "error: --max-length is 9999" in result.stderr


def children(pid):
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_running(start, tiny_llama, kernels, number, status):
    warming = start("warm-cache", tiny_llama, *ENGINE)
    warming.wait_for("starting the engine")
    while not (engines := children(warming.process.pid)):
        time.sleep(0.01)
    warming.process.send_signal(number)
    assert warming.end() == "torch imported: False\n"
    assert warming.process.returncode == status
    assert "Traceback" not in warming.stderr
    assert not any(Path("/proc", engine).exists() for engine in engines)
