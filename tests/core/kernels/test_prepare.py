"""What is made ready beside a load, and that nothing of it is left to run after that."""

from __future__ import annotations

import threading

import pytest
import torch

from ferrule.kernels import prepare
from ferrule.kernels.prepare import preparing

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    monkeypatch.setattr(prepare, "has_triton", lambda: True)


def test_a_cpu_needs_nothing():
    before = threading.active_count()
    with preparing(CPU):
        assert threading.active_count() == before


def test_it_runs_beside_the_block_and_ends_with_it(monkeypatch):
    in_block, is_done = threading.Event(), threading.Event()

    def work(device):
        assert device == GPU
        assert in_block.wait(10)
        is_done.set()

    monkeypatch.setattr(prepare, "_prepare", work)
    with preparing(GPU):
        in_block.set()
    assert is_done.is_set()


def test_what_fails_in_it_harms_nobody(monkeypatch):
    was_called = threading.Event()

    def fails():
        was_called.set()
        raise RuntimeError("no compiler")

    monkeypatch.setattr(prepare, "_digest_compiler", fails)
    with preparing(GPU):
        pass
    assert was_called.is_set()


def test_a_load_that_fails_says_so(monkeypatch):
    monkeypatch.setattr(prepare, "_prepare", lambda device: None)
    with pytest.raises(ValueError, match="no weights"), preparing(GPU):
        raise ValueError("no weights")
