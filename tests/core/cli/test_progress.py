from __future__ import annotations

import io

import pytest
from rich.console import Console

from ferrule.cli.progress import LineDisplay, LiveDisplay, start_display
from ferrule.engine.messages import Progress


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def lines(screen):
    return LineDisplay(Console(file=screen, width=200))


@pytest.fixture
def live(screen):
    return LiveDisplay(Console(file=screen, width=100, force_terminal=True))


def stages(screen):
    return [line.split(" s  ")[1] for line in screen.getvalue().splitlines()]


def test_a_log_gets_a_line_for_each_stage(lines, screen):
    lines.report(Progress("finding plugins"))
    lines.report(Progress("reading headers", detail="org/name"))
    assert stages(screen) == ["finding plugins", "reading headers: org/name"]


def test_a_log_gets_the_begin_and_the_end_of_a_fast_stage_only(lines, screen):
    for done in range(101):
        lines.report(Progress("loading", done / 100, f"{done} of 100"))
    assert stages(screen) == ["loading: 0 of 100", "loading: 100 of 100"]


def test_a_log_hears_of_a_slow_stage_now_and_then(lines, screen, monkeypatch):
    now = iter(range(0, 1000))
    monkeypatch.setattr("ferrule.cli.progress.time.monotonic", lambda: next(now))
    for done in range(11):
        lines.report(Progress("loading", done / 20, f"{done} of 20"))
    assert stages(screen) == ["loading: 0 of 20", "loading: 5 of 20", "loading: 10 of 20"]


def test_a_terminal_shows_each_stage_with_its_detail(live, screen):
    live.report(Progress("reading headers", detail="org/name"))
    live.report(Progress("loading weights", 0.5, "1 of 2"))
    live.report(Progress("loading weights", 1.0, "2 of 2"))
    live.close()
    text = screen.getvalue()
    assert "reading headers" in text
    assert "org/name" in text
    assert "━━━" in text
    assert "2 of 2" in text


@pytest.mark.parametrize("display", ["lines", "live"])
def test_nothing_is_shown_after_the_end_but_what_is_said(display, screen, request):
    shown = request.getfixturevalue(display)
    shown.report(Progress("loading", detail="first"))
    shown.close()
    shown.report(Progress("loading", 1.0, "late"))
    shown.say("stopping")
    assert "late" not in screen.getvalue()
    assert screen.getvalue().endswith("stopping\n")


def test_a_stream_that_is_no_terminal_gets_lines(capsys):
    with start_display() as display:
        display.report(Progress("loading"))
    assert capsys.readouterr().err.endswith("s  loading\n")
