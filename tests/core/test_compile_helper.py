"""Which processes are started before the model is known; test_compile_ahead.py tells them."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from ferrule import compile_helper
from ferrule.compile_helper import start_early

WAITS = (sys.executable, "-c", "import sys; sys.stdin.read()")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Five cores, a GPU, Triton, and a cache in which nothing is."""
    monkeypatch.setattr(compile_helper, "_GPUS", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def num_started(devices):
    helpers = start_early(devices, WAITS)
    for helper in helpers:
        assert not helper.has_ended
        helper.end()
        assert helper.has_ended
    return len(helpers)


@pytest.mark.parametrize("devices", ["auto", "gpu", "gpu:1"])
def test_an_empty_cache_will_want_them(devices):
    assert num_started(devices) == 3


def test_a_cpu_wants_none():
    assert num_started("cpu") == 0


def test_a_machine_without_a_gpu_wants_none(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_helper, "_GPUS", tmp_path / "nothing")
    assert num_started("auto") == 0


def test_without_triton_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert num_started("auto") == 0


def test_a_cache_that_holds_a_model_probably_holds_this_one(tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "ferrule-0123").touch()
    assert num_started("auto") == 0


def test_the_cache_is_where_triton_has_it(monkeypatch, tmp_path):
    assert compile_helper.cache_folder() == tmp_path / "triton"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", "/home/triton")
    assert str(compile_helper.cache_folder()) == "/home/triton/.triton/cache"
