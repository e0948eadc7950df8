"""The runner of a GPU in Triton's interpreter, against the runner of a CPU.

It runs in a process of its own: TRITON_INTERPRET must be set before triton is imported, and would
stay for every test after it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton exists for Linux only")


def test_both_runners_give_the_same_tokens():
    """Greedy and seeded, filtered and penalised, with prefixes, preemptions and descriptions."""
    program = Path(__file__).with_name("kernel_runner_program.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
