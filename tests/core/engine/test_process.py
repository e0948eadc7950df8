from __future__ import annotations

from dataclasses import dataclass

import pytest
import zmq

from ferrule.engine import process
from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import (
    Abort,
    Outputs,
    Request,
    Shutdown,
    decode_from_engine,
    encode,
)
from ferrule.engine.process import run_engine
from ferrule.engine.scheduler import Scheduler
from ferrule.plan import SamplingParams, StepResult


class ScriptedRunner:
    """Says what the script has for the client's side before each step, then gives a token each."""

    def __init__(self, client, script, runs_ahead=False):
        self.client = client
        self.script = script
        self.runs_ahead = runs_ahead
        self.num_steps = 0
        self.num_unread = 0

    def use_idle_time(self):
        return False

    def launch(self, plan):
        for message in self.script.get(self.num_steps, []):
            self.client.send(encode(message))
        self.num_steps += 1
        self.num_unread += 1
        return ScriptedStep(self, [5] * sum(chunk.samples for chunk in plan.chunks))


@dataclass
class ScriptedStep:
    runner: ScriptedRunner
    tokens: list[int]

    def result(self):
        self.runner.num_unread -= 1
        return StepResult(tokens=self.tokens)


@pytest.fixture
def sockets():
    with zmq.Context() as context:
        engine, client = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        with engine, client:
            engine.bind("inproc://engine")
            client.connect("inproc://engine")
            yield engine, client


def requests(*ids, max_tokens=4):
    sampling = SamplingParams(max_tokens=max_tokens)
    return [Request(id=id, tokens=[1, 2, 3], sampling=sampling) for id in ids]


def run(sockets, first, script):
    """Runs the loop until the script shuts it down; what the client then finds."""
    return run_with(ScriptedRunner(sockets[1], script), sockets, first)


def run_with(runner, sockets, first):
    engine_socket, client = sockets
    scheduler = Scheduler(
        BlockPool(16), max_batch_size=4, max_batch_tokens=16, max_length=32, block_size=4
    )
    for message in first:
        client.send(encode(message))
    run_engine(Engine(scheduler, runner), engine_socket)
    received = []
    while client.poll(0):
        received.append(decode_from_engine(client.recv()))
    return received


def test_one_message_a_step_holds_all_outputs(sockets):
    received = run(sockets, requests("a", "b"), {3: [Shutdown()]})

    assert [[output.id for output in one.outputs] for one in received] == [["a", "b"]] * 4


def test_the_loop_ends_when_it_is_told_to_with_requests_running(sockets):
    received = run(sockets, requests("a", max_tokens=20), {1: [Shutdown()]})

    assert len(received) == 2


def test_requests_and_aborts_that_arrive_during_a_step_count_for_the_next(sockets):
    script = {0: requests("b"), 1: [Abort(["a"])], 4: [Shutdown()]}

    received = run(sockets, requests("a", max_tokens=20), script)

    said = [[(output.id, output.finish_reason) for output in one.outputs] for one in received]
    assert said == [
        [("a", None)],
        [("a", None), ("b", None)],
        [("a", "abort"), ("b", None)],
        [("b", None)],
        [("b", "length")],
    ]


def test_figures_go_with_the_first_outputs_and_when_the_engine_falls_idle(sockets, monkeypatch):
    monkeypatch.setattr(process, "_STATS_SECONDS", 1000)

    received = run(sockets, requests("a"), {3: [Shutdown()]})

    assert [one.stats is not None for one in received] == [True, False, False, True]
    assert received[-1].stats.running == 0


def test_figures_go_out_with_the_step_that_they_are_due(sockets, monkeypatch):
    monkeypatch.setattr(process, "_STATS_SECONDS", 0)

    received = run(sockets, requests("a"), {3: [Shutdown()]})

    assert [one.stats.steps_total for one in received] == [1, 2, 3, 4]


def test_a_step_without_outputs_sends_nothing_but_figures_that_are_due(sockets, monkeypatch):
    monkeypatch.setattr(process, "_STATS_SECONDS", 1000)
    long = Request(id="a", tokens=[1] * 30, sampling=SamplingParams(max_tokens=1))

    received = run(sockets, [long], {1: [Shutdown()]})

    # The prompt takes two steps and gives a token in the second.
    first, second = received
    assert first == Outputs([], first.stats)
    assert [output.id for output in second.outputs] == ["a"]


def test_a_runner_that_runs_ahead_is_heard_one_step_later_and_read_to_its_end(sockets, monkeypatch):
    monkeypatch.setattr(process, "_STATS_SECONDS", 1000)
    runner = ScriptedRunner(sockets[1], {3: [Shutdown()]}, runs_ahead=True)

    received = run_with(runner, sockets, requests("a", max_tokens=20))

    # The loop ends with the fourth step launched and the third read.
    assert [len(one.outputs) for one in received] == [0, 1, 1, 1]
    assert (runner.num_steps, runner.num_unread) == (4, 1)


def test_the_loop_sleeps_when_the_last_step_of_a_runner_that_runs_ahead_is_read(sockets):
    engine_socket, client = sockets
    runner = ScriptedRunner(client, {}, runs_ahead=True)
    socket = Overheard(engine_socket, client)

    received = run_with(runner, (socket, client), requests("a"))

    # The request, nothing more, then a look before each of four turns, the last of which only
    # reads; then a moment of quiet and a wait.
    quiet = process._QUIET_MILLISECONDS
    assert socket.timeouts == [quiet, 0, *[0] * 4, quiet, None]
    assert (runner.num_steps, runner.num_unread) == (4, 0)
    assert received[-1].stats.running == 0


class IdleRunner(ScriptedRunner):
    """Has things to do in idle time; before each of them its script may say something."""

    def __init__(self, client, idle_script, num_left):
        super().__init__(client, {})
        self.idle_script = idle_script
        self.num_left = num_left
        self.did = []

    def launch(self, plan):
        self.did.append("step")
        return super().launch(plan)

    def use_idle_time(self):
        for message in self.idle_script.get(self.did.count("idle"), []):
            self.client.send(encode(message))
        self.did.append("idle")
        self.num_left -= 1
        return self.num_left > 0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(process, "_QUIET_MILLISECONDS", 1)


def test_idle_time_is_used_only_without_requests_which_are_served_between(sockets, impatient):
    script = {1: requests("b", max_tokens=2), 3: [Shutdown()]}
    runner = IdleRunner(sockets[1], script, num_left=99)

    received = run_with(runner, sockets, requests("a", max_tokens=3))

    assert runner.did == [*["step"] * 3, *["idle"] * 2, *["step"] * 2, *["idle"] * 2]
    said = [output.id for one in received for output in one.outputs]
    assert said == ["a", "a", "a", "b", "b"]


def test_the_loop_sleeps_when_nothing_is_left_for_idle_time(sockets, impatient):
    engine_socket, client = sockets
    runner = IdleRunner(client, {}, num_left=3)
    socket = Overheard(engine_socket, client)

    run_with(runner, (socket, client), [])

    assert runner.did == ["idle"] * 3
    assert socket.timeouts == [1, 0, 0, None], "it has been quiet once, and nobody has spoken since"


def test_a_message_that_is_there_goes_before_idle_time(sockets):
    runner = IdleRunner(sockets[1], {}, num_left=99)

    run_with(runner, sockets, [Shutdown()])

    assert runner.did == []


def test_an_error_in_idle_time_leaves_the_loop(sockets, impatient):
    class Broken(ScriptedRunner):
        def use_idle_time(self):
            raise ValueError("the graph broke")

    with pytest.raises(ValueError, match="the graph broke"):
        run_with(Broken(sockets[1], {}), sockets, [])


class Overheard:
    """The engine's socket; it remembers how long was waited, and ends a wait without end."""

    def __init__(self, socket, client):
        self.socket = socket
        self.client = client
        self.timeouts = []

    def poll(self, timeout):
        self.timeouts.append(timeout)
        if timeout is None:
            self.client.send(encode(Shutdown()))
        return self.socket.poll(timeout)

    def recv(self):
        return self.socket.recv()

    def send(self, message):
        self.socket.send(message)
