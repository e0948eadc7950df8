from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request

import msgspec
import pytest
import typer.main

from ferrule.bench.child import serve_flags, serving
from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.main import app
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError

OPTIONS = EngineOptions(model="./model", devices="cpu")
SERVER = """
import http.server, json, os, signal, sys
words = [word for flag in sys.argv[1:] for word in flag.split("=")]
flags = {flag.lstrip("-"): value for flag, value in zip(words[::2], words[1::2])}
asked = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        starting = {"status": "starting", "stage": "loading weights", "fraction": asked / 4}
        status, body = (503, starting) if asked < 3 else (200, {"status": "ready"})
        if self.path == "/told":
            status, body = 200, {"flags": flags, "pid": os.getpid(), "environ": dict(os.environ)}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(flags["port"])), Handler).serve_forever()
"""


def python(program):
    return [sys.executable, "-c", program]


def told_by(url):
    with urllib.request.urlopen(f"{url}/told") as response:
        return msgspec.json.decode(response.read())


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_option_reaches_the_server():
    options = EngineOptions(
        model="org/name@main",
        weight_path="other",
        quantization_encoding="q4_k_m",
        dtype="float32",
        devices="gpu:1",
        max_length=100,
        max_batch_size=2,
        max_batch_input_tokens=64,
        kv_cache_page_size=16,
        num_kv_blocks=9,
        device_memory_utilization=0.5,
        gguf_resident_copy="off",
        enable_prefix_caching=False,
        architecture="llama",
        weight_adapter="gguf",
        plugins=(__file__, __file__),
    )
    # Found out by serving, not given by flags; and adapters, which are measured on a server that
    # has them.
    found = {"num_known_tokens", "enable_lora", "lora_paths", "enable_lora_updates"}
    found |= {"max_lora_rank", "max_loras", "max_cpu_loras"}
    for field in msgspec.structs.fields(EngineOptions):
        is_default = getattr(options, field.name) == field.default
        assert is_default == (field.name in found), f"this test leaves {field.name} as it is"
    serve = typer.main.get_command(app).commands["serve"]
    given = serve.make_context("serve", serve_flags(options)).params
    names = [option.name for option in serve.params]
    flags = {name: given[name] for name in names if name in _parameters(engine_flags)}
    assert engine_flags(**flags) == options


def _parameters(function):
    return function.__annotations__.keys() - {"return"}


def test_options_at_their_defaults_are_not_mentioned():
    assert serve_flags(EngineOptions(model="m")) == ["--model=m"]


def test_a_server_is_there_inside_and_gone_outside():
    stages = []
    with serving(OPTIONS, stages.append, python(SERVER)) as url:
        told = told_by(url)
        assert is_alive(told["pid"])
    assert not is_alive(told["pid"])
    assert stages[0] == Progress("starting the server")
    assert Progress("loading weights", 0.25) in stages
    assert told["flags"]["model"] == "./model"
    assert told["flags"]["host"] == "127.0.0.1"
    assert told["flags"]["shutdown-timeout"] == "0"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_server_is_gone_after_whatever_happened_inside(error):
    pids = []

    def leave():
        with serving(OPTIONS, lambda _: None, python(SERVER)) as url:
            pids.append(told_by(url)["pid"])
            raise error

    with pytest.raises(error):
        leave()
    assert not is_alive(*pids)


def test_a_server_that_does_not_want_to_end_is_killed(monkeypatch):
    monkeypatch.setattr("ferrule.bench.child._END_SECONDS", 0.2)
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    with serving(OPTIONS, lambda _: None, python(deaf)) as url:
        pid = told_by(url)["pid"]
    assert not is_alive(pid)


def test_variables_of_flags_are_not_handed_down(monkeypatch):
    monkeypatch.setenv("FERRULE_DTYPE", "float32")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(OPTIONS, lambda _: None, python(SERVER)) as url:
        environ = told_by(url)["environ"]
    assert "FERRULE_DTYPE" not in environ
    assert environ["PATH"] == os.environ["PATH"]


def start_with(program):
    with serving(OPTIONS, lambda _: None, python(program)):
        pytest.fail("it cannot have started")


def test_the_servers_own_error_is_told():
    program = (
        "print('0.1 s  reading', flush=True)\n"
        "print('error: no such file: ./modle\\nhint: Did you mean model?')\n"
        "raise SystemExit(1)"
    )
    with pytest.raises(FerruleError) as caught:
        start_with(program)
    expected = "the server ended before it was ready: no such file: ./modle"
    assert (caught.value.message, caught.value.hint) == (expected, "Did you mean model?")


def test_without_one_its_last_lines_are():
    with pytest.raises(FerruleError, match=r"it said:\n(line \d+\n){18}line 28\nline 29$"):
        start_with("for i in range(30): print('line', i)")


def test_a_server_that_ends_while_it_is_used_is_an_error():
    mortal = SERVER.replace("serve_forever()", "handle_request()").replace("< 3", "< 1")

    def use():
        with serving(OPTIONS, lambda _: None, python(mortal)) as url:
            with contextlib.suppress(OSError):
                told_by(url)
            time.sleep(1)

    with pytest.raises(FerruleError, match="the server ended while it was measured"):
        use()


def test_the_server_of_a_process_that_is_killed_ends_too(tmp_path):
    """Not the fake: what tells Linux about it is in the command for the real one."""
    program = (
        "import os, signal, sys\n"
        "from ferrule.bench import child\n"
        f"command = [*child.SERVE[:3], child.SERVE[3].partition('from ferrule')[0] + {SERVER!r}]\n"
        "with child.serving(child.EngineOptions(model='m'), lambda _: None, command) as url:\n"
        "    print(url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        python(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        pid = told_by(process.stdout.readline().strip())["pid"]
        process.kill()
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
