from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from fake_runner import VOCAB_SIZE, generate_alone

from ferrule.engine.client import EngineClient, Inbox
from ferrule.engine.launch import EngineLaunch
from ferrule.engine.messages import Request
from ferrule.errors import EngineDeadError, MatchError, RequestError
from ferrule.plan import SamplingParams

WORKER = Path(__file__).with_name("fake_worker.py")


def command(*wishes):
    return [sys.executable, str(WORKER), *wishes]


def launch(*wishes):
    return EngineLaunch(command(*wishes))


@asynccontextmanager
async def started(*wishes):
    client = EngineClient()
    try:
        await client.start(launch(*wishes), b"options")
        yield client
    finally:
        await client.stop()


def request(id, num_tokens=10, **sampling):
    tokens = [len(id), *(token % VOCAB_SIZE for token in range(num_tokens - 1))]
    return Request(
        id=id, tokens=tokens, sampling=SamplingParams(**({"seed": 3, "max_tokens": 20} | sampling))
    )


async def outputs_of(client, asked):
    """What arrives for a request, which is aborted when the generator is closed."""
    inbox = Inbox()
    client.submit(asked, inbox)
    finish_reason = None
    try:
        while finish_reason is None:
            output = await inbox.get()
            if isinstance(output, Exception):
                raise output
            finish_reason = output.finish_reason
            yield output
    finally:
        client.abort([asked.id])


async def tokens_of(client, asked):
    return [token async for output in outputs_of(client, asked) for token in output.tokens]


async def until(is_true, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not is_true():
            await asyncio.sleep(0.01)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_start_tells_its_progress_and_ends_with_what_is_served():
    client, told = EngineClient(), []
    assert client.status.state == "starting"
    try:
        info = await client.start(launch(), b"some options", told.append)
        assert (client.status.state, client.info) == ("ready", info)
        assert info.architecture == "fake"
        assert [(one.stage, one.fraction, one.detail) for one in told] == [
            ("loading", 0.5, "some options")
        ]
    finally:
        await client.stop()
    assert client.status.state == "dead"
    assert "stopped" in client.status.cause


async def test_the_status_shows_the_stage_of_a_start():
    client = EngineClient()
    starting = asyncio.create_task(client.start(launch("hang"), b"x"))
    await until(lambda: client.status.progress is not None)
    pid = client._child.pid

    assert (client.status.state, client.status.progress.stage) == ("starting", "loading")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_alive(pid)


async def test_a_request_gives_its_tokens_as_they_come():
    async with started() as client:
        outputs = [output async for output in outputs_of(client, request("a"))]

    assert [token for output in outputs for token in output.tokens] == generate_alone(
        request("a"), 4000
    )
    assert [output.finish_reason for output in outputs] == [None] * 19 + ["length"]


@pytest.mark.parametrize("wishes", [[], ["ahead"]])
async def test_eight_requests_at_once_each_get_their_own_tokens(wishes):
    asked = [request("x" * n, 5 * n, max_tokens=10 * n) for n in range(1, 9)]
    async with started(*wishes) as client:
        answers = await asyncio.gather(*(tokens_of(client, one) for one in asked))

    assert answers == [generate_alone(one, 4000) for one in asked]


async def test_a_refused_request_ends_with_its_error_and_the_engine_lives():
    async with started() as client:
        (output,) = [one async for one in outputs_of(client, request("a", 4000))]
        assert output.finish_reason == "error"
        assert "4000" in output.error
        assert len(await tokens_of(client, request("b"))) == 20


async def test_two_requests_of_one_id_are_refused_before_they_meet():
    async with started("slow") as client, aclosing(outputs_of(client, request("a"))) as stream:
        await anext(stream)
        with pytest.raises(RequestError, match="in progress"):
            await tokens_of(client, request("a"))
        assert len([output async for output in stream]) == 19


async def test_closing_an_iterator_early_aborts_its_request():
    async with started("slow") as client:
        async with aclosing(outputs_of(client, request("a", max_tokens=3000))) as stream:
            await anext(stream)
        await until(lambda: client.stats.steps_total > 0 and client.stats.running == 0)

        assert client.stats.generation_tokens_total < 100
        assert client.stats.kv_used == 0


async def test_an_aborted_request_is_silent_and_unknown_ones_mean_nothing():
    async with started("slow") as client:
        inbox = Inbox()
        client.submit(request("a", max_tokens=3000), inbox)
        await inbox.get()
        client.abort(["a", "unknown"])
        num_arrived = inbox.qsize()
        await until(lambda: client.stats.steps_total > 0 and client.stats.running == 0)

        assert inbox.qsize() == num_arrived
        assert client.stats.generation_tokens_total < 100


async def test_requests_may_share_an_inbox():
    async with started() as client:
        inbox = Inbox()
        for id in "ab":
            client.submit(request(id, max_tokens=5), inbox)
        outputs = [await inbox.get() for _ in range(10)]

    assert sorted(output.id for output in outputs) == [*"aaaaabbbbb"]
    assert inbox.empty()


async def test_figures_arrive_while_the_engine_works_and_when_it_falls_idle():
    async with started("slow") as client:
        work = asyncio.create_task(tokens_of(client, request("a", max_tokens=60)))
        await until(lambda: client.stats.running == 1)
        await work
        await until(lambda: client.stats.running == 0)

        assert client.stats.generation_tokens_total == 60


async def test_a_killed_engine_ends_every_iterator_at_once():
    async with started("slow") as client:
        streams = [outputs_of(client, request(id, max_tokens=3000)) for id in "abc"]
        for stream in streams:
            await anext(stream)
        killed = time.monotonic()
        os.kill(client._child.pid, signal.SIGKILL)

        for stream in streams:
            with pytest.raises(EngineDeadError, match="SIGKILL"):
                async for _ in stream:
                    pass
        assert time.monotonic() - killed < 10  # 3000 steps take a minute
        assert client.status.state == "dead"
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            await tokens_of(client, request("d"))


async def test_an_error_inside_a_step_reaches_every_iterator_and_its_traceback_the_log(capfd):
    async with started("break-step") as client:
        with pytest.raises(EngineDeadError) as caught:
            await tokens_of(client, request("a"))

    said = str(caught.value)
    assert "exit code 1" in said
    assert "ValueError: the step broke" in said
    assert "Traceback" not in said
    assert "Traceback" in capfd.readouterr().err


async def test_a_failed_start_raises_the_error_of_the_engine():
    client = EngineClient()

    with pytest.raises(MatchError) as caught:
        await client.start(launch("refuse"), b"")

    assert (caught.value.message, caught.value.hint) == ("no pair fits", "see: ferrule plugins")
    assert client.status.state == "dead"


async def test_an_error_class_of_a_plugin_arrives_as_the_class_it_derives_from():
    with pytest.raises(MatchError, match="no pair fits"):
        await EngineClient().start(launch("own-error"), b"")


async def test_a_start_that_breaks_names_the_cause():
    with pytest.raises(EngineDeadError, match="ValueError: the build broke"):
        await EngineClient().start(launch("break"), b"")


async def test_a_process_that_says_nothing_is_reported_with_how_it_ended(capfd):
    silent = [sys.executable, "-c", "import sys; sys.exit('no such module')"]

    with pytest.raises(EngineDeadError, match="exit code 1"):
        await EngineClient().start(EngineLaunch(silent), b"")
    assert capfd.readouterr().err == "no such module\n"


async def test_a_stop_ends_open_iterators_and_the_process():
    async with started("slow") as client:
        stream = outputs_of(client, request("a", max_tokens=3000))
        await anext(stream)
        pid = client._child.pid
        await client.stop()

        with pytest.raises(EngineDeadError, match="stopped"):
            async for _ in stream:
                pass
        assert not is_alive(pid)


async def test_a_deaf_engine_is_killed_when_it_is_stopped():
    async with started("deaf") as client:
        work = asyncio.create_task(tokens_of(client, request("a")))
        await asyncio.sleep(0.1)
        pid = client._child.pid
        await client.stop(timeout=0.1)

        assert not is_alive(pid)
        with pytest.raises(EngineDeadError):
            await work


async def test_ctrl_c_does_not_reach_the_engine():
    async with started("slow") as client:
        stream = outputs_of(client, request("a"))
        await anext(stream)
        os.kill(client._child.pid, signal.SIGINT)

        assert len([output async for output in stream]) == 19


async def test_sigterm_ends_the_engine():
    async with started("slow") as client:
        os.kill(client._child.pid, signal.SIGTERM)

        await until(lambda: client.status.state == "dead", seconds=1)
        assert "SIGTERM" in client.status.cause


PARENT = """
import asyncio, sys
from ferrule.engine.client import EngineClient
from ferrule.engine.launch import EngineLaunch

async def main():
    client = EngineClient()
    launch = EngineLaunch(sys.argv[1:])
    await client.start(launch, b"", lambda _: print(launch.child.pid, flush=True))
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("wish", ["slow", "hang"])
async def test_an_engine_does_not_outlive_its_parent(wish, tmp_path):
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        *command(wish),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    pid = int(await parent.stdout.readline())

    assert is_alive(pid)
    parent.kill()
    await parent.wait()

    await until(lambda: not is_alive(pid))
    # A parent that is killed cannot remove the socket's directory, so the engine has done it.
    assert not list(tmp_path.iterdir())
