"""What is recorded and what is not, with a stand-in for CUDA's side; tests/gpu has the real one."""

from __future__ import annotations

import contextlib

import pytest
import torch

from ferrule.runtime.graph_pool import GraphPool


class FakeGraph:
    def __init__(self, events):
        self._events = events

    def capture_begin(self, pool, capture_error_mode):
        self._events.append(f"begin in {pool}")

    def capture_end(self):
        self._events.append("end")


@pytest.fixture
def events(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "memory")
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "stream")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(events))
    return events


def test_a_step_runs_once_before_it_is_recorded(events):
    def step():
        events.append("step")
        return len(events)

    pool = GraphPool()
    graph, result = pool.capture(step)
    assert isinstance(graph, FakeGraph)
    assert events == ["step", "wait", "begin in memory", "step", "end"]
    assert result == 4, "of the run that was recorded"


def test_a_step_whose_kernels_are_known_is_recorded_at_once(events):
    GraphPool().capture(lambda: events.append("step"), is_known=True)
    assert events == ["wait", "begin in memory", "step", "end"]


def test_a_step_that_fails_leaves_no_recording_open(events):
    def step():
        events.append("step")
        if events.count("step") == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        GraphPool().capture(step)
    assert events[-1] == "end"


@pytest.mark.usefixtures("events")
def test_streams_never_wait_for_two_graphs_in_a_row():
    pool = GraphPool()
    assert [pool.may_capture() for _ in range(6)] == [False] * 4 + [True] * 2
    pool.capture(lambda: None)
    assert [pool.may_capture() for _ in range(5)] == [False] * 4 + [True]
