from __future__ import annotations

import re

from ferrule.bench.tally import Tally
from ferrule.engine.messages import Progress


def test_a_point_that_has_just_begun_has_no_speed():
    assert Tally("8 clients", 4).progress() == Progress("8 clients", 0.0, "0 of 4 requests")


def test_requests_failures_and_tokens_are_told():
    tally = Tally("8 clients", 4)
    tally.add_tokens(100)
    tally.add_request(is_failed=False)
    tally.add_request(is_failed=True)
    progress = tally.progress()
    assert progress.fraction == 0.5
    assert re.fullmatch(r"2 of 4 requests, 1 failed, [\d.]+ tok/s", progress.detail)


def test_the_speed_is_that_since_the_begin(monkeypatch):
    now = iter((5.0, 9.0))
    monkeypatch.setattr("ferrule.bench.tally.time.perf_counter", lambda: next(now))
    tally = Tally("1 client", 1)
    tally.add_tokens(101)
    tally.add_tokens(-1)
    assert tally.progress().detail == "0 of 1 requests, 25.0 tok/s"
