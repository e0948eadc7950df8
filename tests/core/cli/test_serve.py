from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

SMALL = ("--port", "0", "--kv-cache-page-size", "16", "--num-kv-blocks", "64")


def serve(start, model, *arguments):
    server = start("serve", model, *SMALL, *arguments)
    url = server.wait_for("Serving tiny-llama at ")
    server.wait_for("curl ")
    return server, httpx.Client(base_url=url.removesuffix("/v1"), timeout=30)


def worker_of(server):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    (worker,) = listed.stdout.split()
    return int(worker)


def test_a_checkpoint_is_served_until_ctrl_c(start, tiny_llama):
    server, client = serve(start, tiny_llama)
    with client:
        health = client.get("/health").json()
        assert (health["status"], health["max_length"]) == ("ready", 256)
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny-llama"]
        body = {"model": "tiny-llama", "prompt": "ab", "max_tokens": 5, "ignore_eos": True}
        answer = client.post("/v1/completions", json=body).json()
        assert answer["usage"] == {**answer["usage"], "prompt_tokens": 2, "completion_tokens": 5}
        messages = [{"role": "user", "content": "ab"}]
        body = {"model": "tiny-llama", "messages": messages, "max_tokens": 5}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    server.process.send_signal(signal.SIGINT)
    assert server.end() == "torch imported: False\n"
    assert server.process.returncode == 0
    assert "stopping: no requests are running" in server.stderr
    assert "Traceback" not in server.stderr


def test_the_engine_is_told_where_to_keep_its_kernels(start, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRULE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    server, client = serve(start, tiny_llama)
    client.close()
    environ = Path(f"/proc/{worker_of(server)}/environ").read_text().split("\0")
    assert "TRITON_CACHE_DIR=/mine" in environ
    assert f"TORCHINDUCTOR_CACHE_DIR={tmp_path}/ferrule/kernels/inductor" in environ


def test_ctrl_c_lets_a_running_stream_finish_and_says_so(start, tiny_llama):
    server, client = serve(start, tiny_llama)
    body = {
        "model": "tiny-llama",
        "prompt": "ab",
        "max_tokens": 100,
        "ignore_eos": True,
        "stream": True,
    }
    with client, client.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]
    server.end()
    assert server.process.returncode == 0
    assert "stopping: 1 running request is finishing, for 30 s at most" in server.stderr


def test_a_second_ctrl_c_ends_at_once(start, tiny_llama):
    config = json.loads((tiny_llama / "config.json").read_text())
    config["max_position_embeddings"] = 100_000
    (tiny_llama / "config.json").write_text(json.dumps(config))
    server, client = serve(start, tiny_llama, "--num-kv-blocks", "6250")
    body = {"model": "tiny-llama", "prompt": "ab", "max_tokens": 90_000, "ignore_eos": True}

    def post():
        with pytest.raises(httpx.HTTPError):
            client.post("/v1/completions", json=body)

    with client:
        asking = threading.Thread(target=post)
        asking.start()
        while client.get("/health").json()["running"] == 0:
            pass
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Ctrl-C again ends at once")
        server.process.send_signal(signal.SIGINT)
        server.end()
        asking.join()
    assert server.process.returncode == 128 + signal.SIGINT


def test_the_end_of_the_engine_is_an_error(start, tiny_llama):
    server, client = serve(start, tiny_llama)
    client.close()
    os.kill(worker_of(server), signal.SIGKILL)
    server.end()
    assert server.process.returncode == 1
    assert "error: the engine has ended" in server.stderr
    assert "SIGKILL" in server.stderr
    assert "Traceback" not in server.stderr


def test_what_the_engine_finds_wrong_is_the_commands_error(start, tiny_llama):
    server = start("serve", tiny_llama, *SMALL, "--max-length", "9999")
    server.end(60)
    assert server.process.returncode == 1
    assert "error: --max-length is 9999" in server.stderr
    assert "hint: Take --max-length 256 or less." in server.stderr
    assert "Traceback" not in server.stderr


def test_a_port_in_use_is_told_before_anything_else(ferrule, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ferrule("serve", tmp_path / "nothing", "--port", port)
    assert result.exit_code == 1
    assert f"port {port}" in result.stderr
    assert f"--port {port + 1}" in result.stderr


def test_a_wrong_path_names_what_is_spelled_alike(ferrule, tiny_llama):
    result = ferrule("serve", tiny_llama.with_name("tiny-lama"), "--port", "0")
    assert result.exit_code == 1
    assert str(tiny_llama) in result.stderr.partition("hint:")[2]


def test_an_empty_directory_is_told_from_a_checkpoint(ferrule, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    result = ferrule("serve", folder, "--port", "0")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert str(folder) in result.stderr


def test_another_encoding_than_expected_is_an_error(ferrule, tiny_llama):
    result = ferrule("serve", tiny_llama, "--port", "0", "--quantization-encoding", "q4_k")
    assert result.exit_code == 1
    assert "q4_k" in result.stderr.lower()
    assert "F32" in result.stderr
