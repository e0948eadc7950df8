"""Kernels in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SETUP = """
import torch

torch.manual_seed(0)

def error(found, exact):
    assert found.shape == exact.shape
    difference = (found.double() - exact).norm()
    return (difference / exact.norm()).item()

def within(last_dim, x):
    # Rows of x between NaN: what is read beside them shows.
    wide = torch.full((x.shape[0] + 2, last_dim), torch.nan, dtype=x.dtype)
    wide[1:-1, : x.shape[1]] = x
    return wide[1:-1, : x.shape[1]]
"""


@pytest.fixture
def interpret():
    """``interpret(program)``: runs it with the names of ``SETUP``; all is well if it ends.

    In a process of its own: TRITON_INTERPRET must be set before triton is imported, and would
    stay for every test after it.
    """
    pytest.importorskip("triton", reason="triton exists for Linux only")

    def run(program: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SETUP + program + "\nprint('equal')"],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.stdout == "equal\n", done.stderr

    return run
