"""Where a plain call of a kernel works."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from ferrule.kernels import available
from ferrule.kernels.available import has_triton, runs_kernels

ON_GPU, ON_HOST = SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)


@pytest.mark.parametrize(
    ("x", "installed", "traced", "expected"),
    [
        (ON_GPU, True, False, True),
        (ON_GPU, True, True, False),
        (ON_GPU, False, False, False),
        (ON_HOST, True, False, False),
    ],
    ids=["on a gpu", "traced by torch.compile", "without triton", "on the host"],
)
def test_kernels_run_on_a_gpu_with_triton_and_not_while_traced(
    monkeypatch, x, installed, traced, expected
):
    monkeypatch.setattr(available, "has_triton", lambda: installed)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    assert runs_kernels(x) is expected


def test_a_tensor_on_the_host_takes_plain_torch():
    assert not runs_kernels(torch.zeros(2, 3))


@pytest.mark.parametrize("found", [object(), None])
def test_triton_is_looked_for_without_importing_it(monkeypatch, found):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: asked.append(name) or found)
    assert has_triton.__wrapped__() == (found is not None)
    assert asked == ["triton"]
