from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from ferrule.bench.signals import ended_by_signals, run_until_signal

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_contexts(number):
    left = []

    def leave():
        with ended_by_signals():
            try:
                signal.raise_signal(number)
            finally:
                left.append(True)

    with pytest.raises(SystemExit) as caught:
        leave()
    assert (left, caught.value.code) == ([True], 128 + number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels_what_runs(number):
    ended = []

    async def run():
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, number)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(SystemExit) as caught:
        run_until_signal(run())
    assert (ended, caught.value.code) == ([True], 128 + number)


def test_ctrl_c_stays_what_it_is():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def run():
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(60)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_signal(run())
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(each) for each in SIGNALS]
    with ended_by_signals():
        run_until_signal(asyncio.sleep(0))
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so():
    program = (
        "import signal\n"
        "from ferrule.bench.signals import ended_by_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with ended_by_signals():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "print('went on')\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
