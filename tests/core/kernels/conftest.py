"""Kernels in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

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
def interpret(interpreted):
    """``interpret(program)``: runs it with the names of ``SETUP``; fails unless it ends."""
    return lambda program: interpreted(SETUP + program)
