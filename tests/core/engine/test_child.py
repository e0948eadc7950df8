from __future__ import annotations

import asyncio
import sys
import time

import pytest

from ferrule.engine.child import Child


def python(program):
    return Child([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("", "exit code 0"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ],
)
async def test_the_end_is_told_in_words(program, said):
    child = python(program)

    assert await child.wait() == said


async def test_a_child_that_ends_by_itself_is_not_terminated():
    child = python("import time; time.sleep(0.1)")
    await child.end(5)

    assert await child.wait() == "exit code 0"


async def test_a_child_that_stays_is_terminated():
    child = python("import time; time.sleep(60)")
    await child.end(0.05)

    assert await child.wait() == "signal SIGTERM"


async def test_a_child_that_ignores_that_is_killed(tmp_path):
    deaf = tmp_path / "deaf"
    child = python(
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(deaf)!r}).touch()\n"
        "time.sleep(60)"
    )
    while not deaf.exists():
        await asyncio.sleep(0.01)
    await child.end(0)

    assert await child.wait() == "signal SIGKILL"


async def test_what_it_writes_to_stderr_is_shown(capfd):
    await python("import sys; print('é€', file=sys.stderr)").wait()

    assert capfd.readouterr().err == "é€\n"


async def test_a_grandchild_that_holds_the_output_open_does_not_delay_the_end():
    program = "import subprocess; subprocess.Popen(['sleep', '20'])"
    child = python(program)
    started = time.monotonic()

    assert await child.wait() == "exit code 0"
    assert time.monotonic() - started < 10


async def test_a_variable_is_given_unless_ours_has_it(monkeypatch, capfd):
    monkeypatch.setenv("FERRULE_TEST_OURS", "ours")
    child = Child(
        [sys.executable, "-c", "import os, sys; print(os.environ, file=sys.stderr)"],
        {"FERRULE_TEST_OURS": "theirs", "FERRULE_TEST_NEW": "new"},
    )
    await child.wait()

    said = capfd.readouterr().err
    assert "'FERRULE_TEST_OURS': 'ours'" in said
    assert "'FERRULE_TEST_NEW': 'new'" in said
