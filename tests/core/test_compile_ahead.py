"""What is started beside the load, when nothing is, and that it ends with the engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import msgspec
import psutil
import pytest
import torch

from ferrule import ModelConfig, RopeConfig, compile_ahead
from ferrule.compile_ahead import num_helpers, start_compiling
from ferrule.compile_helper import start_helpers
from ferrule.engine.options import EngineOptions

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CONFIG = ModelConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    rope=RopeConfig(rotary_dim=16),
    windows=(None, None),
)
OPTIONS = EngineOptions(model="some/model")
GIB = 1 << 30
# Stand-ins: each writes what it was told into a folder, and then does something of its own.
TELLS = """
import os, pathlib, subprocess, sys, time
folder = sys.argv[1]
index, count = sys.stdin.buffer.readline().split()
line = sys.stdin.buffer.readline()
file = pathlib.Path(folder, index.decode())
file.with_suffix(".part").write_bytes(count + b" " + line)
file.with_suffix(".part").rename(file)
"""
SLEEPS = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A GPU that this machine has not, five cores and an empty cache."""
    found = SimpleNamespace(gpu="A GPU", free=100 * GIB, cores=5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: found.gpu)
    monkeypatch.setattr(compile_ahead, "free_memory", lambda device: found.free)
    monkeypatch.setattr(compile_ahead, "has_triton", lambda: True)
    monkeypatch.setattr(compile_ahead, "version", lambda name: "3.0")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(found.cores)))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return found


@pytest.fixture
def told(tmp_path):
    folder = tmp_path / "told"
    folder.mkdir()
    return folder


def start(
    told,
    program=TELLS,
    *,
    options=OPTIONS,
    config=CONFIG,
    formats=("Q4_K", "Q6_K"),
    made_of=(),
    device=GPU,
    started=(),
):
    tensors = {
        name: SimpleNamespace(name=name, format=format)
        for name, format in zip(
            ("blk.0.attn_v.weight", "blk.1.attn_v.weight"), formats, strict=True
        )
    }
    chosen = SimpleNamespace(
        architecture=SimpleNamespace(name="llama"),
        config=config,
        checkpoint=SimpleNamespace(tensors=tensors),
    )
    command = (sys.executable, "-c", program, str(told))
    return start_compiling(
        options, chosen, made_of, device, 16 * GIB, started=started, command=command
    )


def early(told, count, program=TELLS):
    return start_helpers(count, (sys.executable, "-c", program, str(told)))


def nothing():
    pass


def test_processes_share_the_work_and_get_the_options(told):
    with start(told) as ahead:
        ahead.wait(nothing)
    files = sorted(told.iterdir())
    assert [file.name for file in files] == ["0", "1", "2"]
    for file in files:
        count, _, line = file.read_bytes().partition(b" ")
        assert count == b"3"
        assert msgspec.json.decode(line, type=EngineOptions) == OPTIONS


@pytest.mark.parametrize(
    ("num_cores", "room", "count"),
    [
        (16, 60 * GIB, 10),
        (5, 60 * GIB, 3),
        (2, 60 * GIB, 0),
        (1, 60 * GIB, 0),
        (16, 9 * GIB, 2),
        (16, 3 * GIB, 0),
        (16, -3 * GIB, 0),
    ],
)
def test_as_many_as_cores_and_memory_allow(machine, num_cores, room, count):
    machine.cores = num_cores
    assert num_helpers(room) == count


@pytest.mark.parametrize("num_early", [1, 3, 5])
def test_those_that_wait_already_are_told_first(told, num_early):
    started = early(told, num_early)
    with start(told, started=started) as ahead:
        ahead.wait(nothing)
    assert sorted(file.name for file in told.iterdir()) == ["0", "1", "2"]
    assert all(helper.has_ended for helper in started)


def test_those_that_wait_are_ended_where_nothing_is_to_be_compiled(told, monkeypatch):
    for device, problem in ((CPU, None), (GPU, RuntimeError("CUDA error"))):
        if problem is not None:
            monkeypatch.setattr(compile_ahead, "free_memory", mock.Mock(side_effect=problem))
        started = early(told, 2)
        with start(told, device=device, started=started):
            assert all(helper.has_ended for helper in started)
    assert list(told.iterdir()) == []


def test_nothing_is_started_for_a_cpu_or_without_triton(told, monkeypatch, tmp_path):
    with start(told, device=CPU) as ahead:
        ahead.wait(nothing)
        ahead.remember()
    monkeypatch.setattr(compile_ahead, "has_triton", lambda: False)
    with start(told) as ahead:
        ahead.wait(nothing)
        ahead.remember()
    assert list(told.iterdir()) == []
    assert not (tmp_path / "triton").exists()


def test_what_was_compiled_once_is_not_compiled_again(told):
    with start(told) as ahead:
        ahead.wait(nothing)
    ahead.remember()
    for file in told.iterdir():
        file.unlink()
    with start(told) as ahead:
        ahead.wait(nothing)
    assert list(told.iterdir()) == []


def test_a_start_that_failed_is_not_remembered(told):
    with pytest.raises(ValueError, match="the engine broke"), start(told):
        raise ValueError("the engine broke")
    with start(told) as ahead:
        ahead.wait(nothing)
    assert len(list(told.iterdir())) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"options": msgspec.structs.replace(OPTIONS, max_length=32)},
        {"options": msgspec.structs.replace(OPTIONS, kv_cache_page_size=128)},
        {"config": replace(CONFIG, hidden_size=64)},
        {"formats": ("Q8_0", "Q8_0")},
        {"made_of": (torch.float16,)},
        {"gpu": "Another GPU"},
    ],
)
def test_another_combination_is_compiled(told, machine, changes):
    with start(told, made_of=(torch.bfloat16,)) as ahead:
        ahead.wait(nothing)
    ahead.remember()
    for file in told.iterdir():
        file.unlink()
    changes = {"made_of": (torch.bfloat16,), **changes}
    machine.gpu = changes.pop("gpu", machine.gpu)
    with start(told, **changes) as ahead:
        ahead.wait(nothing)
    assert len(list(told.iterdir())) == 3


def test_a_process_that_fails_harms_nobody(told):
    with start(told, "raise SystemExit(3)") as ahead:
        ahead.wait(nothing)
    ahead.remember()


def test_a_program_that_is_not_there_harms_nobody():
    chosen = SimpleNamespace(architecture=SimpleNamespace(name="llama"), config=CONFIG)
    with start_compiling(OPTIONS, chosen, (), GPU, 0, command=("/no/such/program",)) as ahead:
        ahead.wait(nothing)


def test_a_device_that_says_nothing_harms_nobody(told, monkeypatch):
    def fails(device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(compile_ahead, "free_memory", fails)
    with start(told) as ahead:
        ahead.wait(nothing)
    assert list(told.iterdir()) == []


def test_a_cache_that_cannot_be_written_harms_nobody(told, tmp_path):
    (tmp_path / "triton").write_text("a file")
    with start(told) as ahead:
        ahead.wait(nothing)
    ahead.remember()


def pids(told):
    deadline = time.monotonic() + 30
    while not (told / "pids").exists() or not (told / "pids").read_text().count(" "):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(pid) for pid in (told / "pids").read_text().split()]


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_ended(running):
    deadline = time.monotonic() + 10
    while any(map(is_running, running)):
        assert time.monotonic() < deadline, "it outlives the engine"
        time.sleep(0.02)


def test_what_outlives_the_deadline_is_killed_with_what_it_started(told, machine):
    machine.cores = 3
    said = []
    with start(told, TELLS + SLEEPS) as ahead:
        running = pids(told)
        ahead.wait(lambda: said.append("waiting"), seconds=0.1)
        assert_ended(running)
    assert said == ["waiting"]


def test_what_still_runs_when_the_load_fails_is_killed(told, machine):
    machine.cores = 3
    with contextlib.suppress(ValueError), start(told, TELLS + SLEEPS):
        running = pids(told)
        raise ValueError("no weights")
    assert_ended(running)


# Takes the place of the real work in the real program, which then ends by itself alone.
HANGS = """
import time
from ferrule import precompile
precompile.resolve_device = lambda name: (print("working", flush=True), time.sleep(600))
precompile.main()
"""


def test_the_real_program_ends_when_its_parent_is_gone():
    with subprocess.Popen(
        [sys.executable, "-c", HANGS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        process.stdin.write(b"0 1\n" + msgspec.json.encode(OPTIONS) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"working\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGKILL
