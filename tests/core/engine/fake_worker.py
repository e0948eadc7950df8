"""An engine process over the fake runner: ``python fake_worker.py [wish ...] ADDRESS PARENT``.

The wishes, by which the tests make it misbehave: ``slow`` (a step takes 20 ms), ``refuse`` (the
build raises an error of ours), ``own-error`` (one that a plugin made), ``break`` (any other
error), ``break-step`` (the tenth step raises), ``hang`` (the build never ends), ``deaf`` (SIGTERM
and the client's words change nothing), ``ahead`` (a step is launched before the last is read).
"""

from __future__ import annotations

import signal
import sys
import time

from fake_runner import VOCAB_SIZE, FakeRunner

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import EngineInfo, Progress
from ferrule.engine.process import serve_engine
from ferrule.engine.scheduler import Scheduler
from ferrule.errors import MatchError

NUM_BLOCKS, BLOCK_SIZE, BATCH_SIZE, BATCH_TOKENS, MAX_LENGTH = 1024, 4, 8, 16, 4000


class OwnError(MatchError):
    """What a plugin may raise: a class that the client cannot know."""


class Runner:
    def __init__(self, inner, wishes):
        self.inner = inner
        self.runs_ahead = inner.runs_ahead
        self.wishes = wishes
        self.num_steps = 0

    def launch(self, plan):
        self.num_steps += 1
        if "slow" in self.wishes:
            time.sleep(0.02)
        if "deaf" in self.wishes:
            time.sleep(600)
        if "break-step" in self.wishes and self.num_steps == 10:
            raise ValueError("the step broke")
        return self.inner.launch(plan)

    def use_idle_time(self):
        return False


def build(options, on_progress):
    wishes = sys.argv[1:-1]
    on_progress(Progress("loading", 0.5, options.decode()))
    if "refuse" in wishes:
        raise MatchError("no pair fits", hint="see: ferrule plugins")
    if "own-error" in wishes:
        raise OwnError("no pair fits")
    if "break" in wishes:
        raise ValueError("the build broke")
    if "deaf" in wishes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "hang" in wishes:
        time.sleep(600)
    pool = BlockPool(NUM_BLOCKS)
    scheduler = Scheduler(
        pool,
        max_batch_size=BATCH_SIZE,
        max_batch_tokens=BATCH_TOKENS,
        max_length=MAX_LENGTH,
        block_size=BLOCK_SIZE,
    )
    runner = FakeRunner(
        num_slots=BATCH_SIZE,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        max_batch_tokens=BATCH_TOKENS,
        runs_ahead="ahead" in wishes,
    )
    info = EngineInfo(
        architecture="fake",
        weight_adapter="fake",
        dtype="float32",
        device="cpu",
        max_length=MAX_LENGTH,
        vocab_size=VOCAB_SIZE,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        max_batch_size=BATCH_SIZE,
        weight_bytes=0,
        kv_bytes=0,
    )
    return Engine(scheduler, Runner(runner, wishes)), info


if __name__ == "__main__":
    sys.exit(serve_engine(sys.argv[-2], int(sys.argv[-1]), build))
