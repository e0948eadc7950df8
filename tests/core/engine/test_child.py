from __future__ import annotations

import sys
import time

import pytest

from ferrule.engine.child import Child


async def python(program):
    return await Child.start([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("", "exit code 0"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ],
)
async def test_the_end_is_told_in_words(program, said):
    child = await python(program)

    assert await child.wait() == said


async def test_the_last_lines_of_a_long_log_are_kept_and_all_is_shown(capsys):
    child = await python("import sys\nfor n in range(9000): print('line', n, file=sys.stderr)")
    await child.wait()

    assert child.last_lines.splitlines() == [f"line {n}" for n in range(8980, 9000)]
    assert len(capsys.readouterr().err.splitlines()) == 9000


async def test_characters_that_are_cut_by_a_read_stay_whole():
    child = await python(
        "import os, time\nfor byte in 'é€'.encode(): os.write(2, bytes([byte])); time.sleep(0.02)"
    )
    await child.wait()

    assert child.last_lines == "é€"


async def test_a_child_that_ends_by_itself_is_not_terminated():
    child = await python("import time; time.sleep(0.1)")
    await child.end(5)

    assert await child.wait() == "exit code 0"


async def test_a_child_that_stays_is_terminated():
    child = await python("import time; time.sleep(60)")
    await child.end(0.05)

    assert await child.wait() == "signal SIGTERM"


async def test_a_child_that_ignores_that_is_killed():
    child = await python(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', file=sys.stderr, flush=True)\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    while not child.last_lines and time.monotonic() - started < 5:
        await child._has_ended(0.01)
    await child.end(0)

    assert await child.wait() == "signal SIGKILL"


async def test_a_grandchild_that_holds_the_log_open_does_not_delay_the_end():
    program = "import subprocess; subprocess.Popen(['sleep', '4'])"
    child = await python(program)
    started = time.monotonic()

    assert await child.wait() == "exit code 0"
    assert time.monotonic() - started < 2
