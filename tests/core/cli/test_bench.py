from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = ("--input-len", "16", "--output-len", "4", "--vocab", "256")
ENGINE = ("--devices", "cpu", "--kv-cache-page-size", "16", "--num-kv-blocks", "64")
HELP = """
import sys
sys.argv = ["ferrule", "bench", "--help"]
from ferrule.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "aiohttp", "uvloop", "litestar", "huggingface_hub", "tokenizers"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


@pytest.fixture
def server():
    """The fake of tests/core/bench, which streams without a model."""
    path = Path(__file__).parents[1] / "bench" / "fake_server.py"
    spec = importlib.util.spec_from_file_location("bench_fake_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.FakeServer() as running:
        yield running


def rows(stdout):
    return [line.split() for line in stdout.splitlines()[2:]]


def test_a_server_is_measured_and_its_figures_are_a_table(ferrule, server):
    result = ferrule("bench", "--url", server.url, "--concurrency", "1,3", *SMALL)
    assert result.exit_code == 0
    assert [row[:3] for row in rows(result.stdout)] == [["1", "16", "0"], ["3", "16", "0"]]
    assert "quick: 16 tokens in, 4 out" in result.stderr
    assert "3 clients: 16 of 16 requests" in result.stderr
    assert server.most_at_once <= 3


def test_requests_arrive_at_a_rate(ferrule, server):
    result = ferrule("bench", "--url", server.url, "--rate", "50,100", "--requests", 5, *SMALL)
    assert [row[:3] for row in rows(result.stdout)] == [["50", "5", "0"], ["100", "5", "0"]]


def test_the_model_can_be_named_and_adapters_take_turns(ferrule, server):
    ferrule("bench", "--url", server.url, "--model", "paced", "--requests", 1, *SMALL)
    assert {body["model"] for body in server.bodies} == {"paced"}
    server.bodies.clear()
    ferrule("bench", "--url", server.url, "--lora", "a,b", "--requests", 2, "--warmup", 0, *SMALL)
    assert sorted(body["model"] for body in server.bodies) == ["a", "b"]


def test_all_figures_are_written_as_json(ferrule, server, tmp_path):
    file = tmp_path / "figures.json"
    result = ferrule("bench", "--url", server.url, "--requests", 6, "--json", file, *SMALL)
    assert f"written: {file}" in result.stderr
    written = json.loads(file.read_text())
    assert written["ferrule"] == ferrule("--version").stdout.split()[1]
    assert written["date"].endswith("+00:00")
    assert (written["mode"], written["target"]) == ("url", server.url)
    assert (written["model"], written["engine"]) == ("quick", None)
    settings = written["settings"]
    assert settings["loads"] == [{"concurrency": 8, "num_requests": 6}]
    assert settings["workload"] == {
        "kind": "fixed",
        "input_len": 16,
        "output_len": 4,
        "shared_prefix": 0,
        "vocab": 256,
    }
    (point,) = written["points"]
    counts = ("requests", "failed", "prompt_tokens", "output_tokens")
    assert [point[name] for name in counts] == [6, 0, 96, 24]
    assert point["ttft_ms"].keys() == {"mean", "p50", "p90", "p99", "max"}


def test_a_page_of_charts_is_written(ferrule, server, tmp_path):
    file = tmp_path / "charts.html"
    flags = ("--concurrency", "1,2", "--requests", 4, "--plot", file)
    ferrule("bench", "--url", server.url, *flags, *SMALL)
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 4
    # Four charts with ten lines, two points each.
    assert page.count("<circle") == 20


def test_failures_are_counted_and_told_and_the_status_is_1(ferrule, server):
    flags = ("--lora", "quick,error 500", "--requests", 8, "--warmup", 0)
    result = ferrule("bench", "--url", server.url, *flags, *SMALL)
    assert result.exit_code == 1
    assert [row[:3] for row in rows(result.stdout)] == [["8", "8", "4"]]
    assert "4 failed: HTTP 500: it is broken" in result.stderr


def test_prompts_come_from_a_dataset(ferrule, server, tmp_path):
    file = tmp_path / "talks.json"
    turns = [
        {"from": "human", "value": "What is the capital of France?"},
        {"from": "gpt", "value": "It is Paris, a city on the Seine."},
    ]
    file.write_text(json.dumps([{"conversations": turns}])[:-1])
    flags = ("--dataset", file, "--requests", 1, "--warmup", 0)
    result = ferrule("bench", "--url", server.url, *flags)
    (body,) = server.bodies
    assert (body["prompt"], body["max_tokens"]) == (turns[0]["value"], 10)
    assert f"note: {file} is cut off" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "missing; give a checkpoint to serve, or --url"),
        (("--url", "127.0.0.1:8000"), 2, "is no URL such as"),
        (("--url", "http://a", "model"), 1, "MODEL is for a checkpoint"),
        (("--url", "http://a", "--in-process"), 1, "--in-process is for a checkpoint"),
        (("--url", "http://a", "--dtype", "float32"), 1, "--dtype is for a checkpoint"),
        (("--url", "http://a", "--plugin", __file__), 1, "--plugin is for a checkpoint"),
        (("model", "--in-process", "--rate", "1"), 1, "--rate is for a server"),
        (("model", "--in-process", "--lora", "a"), 1, "--lora is for a server"),
        (("model", "--plot", "a.png"), 1, "another ending than .html"),
        (("model", "--plot", "none/a.html"), 1, "--plot none/a.html cannot be written"),
        (("model", "--json", "none/a.json"), 1, "--json none/a.json cannot be written"),
        (("model", "--json", "."), 1, "--json . cannot be written"),
        (("model", "--concurrency", "1", "--rate", "1"), 1, "--concurrency and --rate"),
        (("--url", "http://127.0.0.1:1"), 1, "no server answers at http://127.0.0.1:1/v1/models"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(ferrule, arguments, status, message):
    result = ferrule("bench", *arguments)
    assert result.exit_code == status
    assert message in " ".join(result.stderr.replace("│", "").split())


def test_a_missing_library_is_told_with_what_installs_it(ferrule, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    result = ferrule("bench", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "hint: Run pip install 'ferrule[bench]'" in result.stderr


def test_a_file_that_cannot_be_written_after_all_is_an_error(ferrule, server, tmp_path):
    file = tmp_path / "figures.json"
    file.symlink_to("/dev/full")
    result = ferrule("bench", "--url", server.url, "--requests", 1, "--json", file, *SMALL)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert rows(result.stdout)


def test_a_checkpoint_is_measured_in_this_process(ferrule, tiny_llama):
    flags = (*ENGINE, "--in-process", "--concurrency", "2", "--requests", 4, *SMALL)
    result = ferrule("bench", tiny_llama, *flags)
    assert result.exit_code == 0
    assert [row[:3] for row in rows(result.stdout)] == [["2", "4", "0"]]


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-c", HELP]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--concurrency" in done.stdout


# With a server of its own.


def descendants(pid):
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in listed] + [deep for each in listed for deep in descendants(each)]


def wait_until_gone(pids, seconds=15):
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_checkpoint_is_served_measured_and_left(start, tiny_llama, tmp_path):
    file = tmp_path / "figures.json"
    flags = ("--concurrency", "1,4", "--json", file, *SMALL)
    bench = start("bench", tiny_llama, *ENGINE, *flags)
    bench.wait_for("1 client: 0 of 16 requests")
    started = descendants(bench.process.pid)
    assert len(started) == 2  # the server and its engine
    *table, torch_imported = bench.end(60).splitlines()
    assert bench.process.returncode == 0, bench.stderr
    assert [row[:3] for row in rows("\n".join(table))] == [["1", "16", "0"], ["4", "16", "0"]]
    assert torch_imported == "torch imported: False"
    assert "starting the server" in bench.stderr
    wait_until_gone(started)
    written = json.loads(file.read_text())
    assert (written["mode"], written["target"]) == ("server", str(tiny_llama))
    assert written["model"] == "tiny-llama"
    assert written["engine"] == {
        "model": str(tiny_llama),
        "devices": "cpu",
        "kv_cache_page_size": 16,
        "num_kv_blocks": 64,
    }


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_whatever_ends_the_command_ends_its_server(start, tiny_llama, number, status):
    flags = ("--concurrency", "1,4", "--requests", "1000", "--input-len", "16", "--vocab", "256")
    bench = start("bench", tiny_llama, *ENGINE, *flags, "--output-len", "200")
    bench.wait_for("1 client: 0 of 1000 requests")
    started = descendants(bench.process.pid)
    assert len(started) == 2
    bench.process.send_signal(number)
    bench.end()
    assert bench.process.returncode == status
    assert "Traceback" not in bench.stderr
    wait_until_gone(started)


def test_points_measured_before_ctrl_c_are_shown(start, tiny_llama):
    flags = ("--rate", "200,1", "--requests", "30", "--input-len", "16", "--vocab", "256")
    bench = start("bench", tiny_llama, *ENGINE, *flags, "--output-len", "4")
    bench.wait_for("1 request a second: 0 of 30")
    bench.process.send_signal(signal.SIGINT)
    *table, _ = bench.end().splitlines()
    assert bench.process.returncode == 130
    assert [row[:3] for row in rows("\n".join(table))] == [["200", "30", "0"]]


def test_ctrl_c_while_the_server_starts_ends_it(start, tiny_llama):
    bench = start("bench", tiny_llama, *ENGINE, *SMALL)
    bench.wait_for("starting the server")
    while not (started := descendants(bench.process.pid)):
        time.sleep(0.01)
    bench.process.send_signal(signal.SIGINT)
    bench.end()
    assert bench.process.returncode == 130
    wait_until_gone(started)


def test_what_keeps_the_server_from_starting_is_the_commands_error(start, tiny_llama):
    bench = start("bench", tiny_llama, *ENGINE, "--max-length", "9999")
    bench.end(60)
    assert bench.process.returncode == 1
    assert "error: the server ended before it was ready: --max-length is 9999" in bench.stderr
    assert "hint: Take --max-length 256 or less." in bench.stderr
    assert os.fspath(tiny_llama) in bench.stderr
