from __future__ import annotations

from collections import deque

import pytest

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.messages import Request
from ferrule.engine.scheduler import Scheduler
from ferrule.errors import OptionError, RequestError
from ferrule.plan import SamplingParams, StepResult


def scheduler(num_blocks=64, **options):
    defaults = {
        "max_batch_size": 4,
        "max_batch_tokens": 16,
        "max_length": 200,
        "block_size": 4,
        "enable_prefix_caching": False,
    }
    return Scheduler(BlockPool(num_blocks), **(defaults | options))


def request(id, num_tokens, **sampling):
    # Prompts of different ids have no prefix in common.
    return Request(id=id, tokens=[ord(id)] * num_tokens, sampling=SamplingParams(**sampling))


def step(scheduler, token=9):
    one = scheduler.schedule()
    return one.plan, scheduler.advance(one, result_of(one, token))


def result_of(step, token=9):
    return StepResult(tokens=[token] * sum(chunk.samples for chunk in step.chunks))


def chunks(plan):
    return [(chunk.slot, chunk.start, chunk.num_tokens, chunk.samples) for chunk in plan.chunks]


def test_a_step_must_hold_a_token_of_each_running_sequence():
    with pytest.raises(OptionError, match=r"16 tokens .* 17 running"):
        scheduler(max_batch_size=17)


def test_a_prompt_is_cut_into_chunks_and_only_the_last_gives_a_token():
    one = scheduler()
    one.add(request("a", 40))

    plans = [step(one)[0] for _ in range(4)]

    assert [chunks(plan) for plan in plans] == [
        [(0, 0, 16, False)],
        [(0, 16, 16, False)],
        [(0, 32, 8, True)],
        [(0, 40, 1, True)],
    ]
    assert len(plans[0].admitted) == 1
    assert not any(plan.admitted for plan in plans[1:])


def test_the_blocks_of_a_prompt_come_with_its_first_chunk():
    one = scheduler()
    one.add(request("a", 40))

    news = [len(step(one)[0].chunks[0].new_blocks) for _ in range(8)]

    # Tokens 40 to 43 fill an eleventh block, and token 44 needs the next.
    assert news == [10, 0, 0, 1, 0, 0, 0, 1]


def test_decodes_get_their_tokens_before_prompts():
    one = scheduler()
    one.add(request("a", 20))
    one.add(request("b", 3))
    step(one)
    step(one)
    one.add(request("c", 40))

    plan, _ = step(one)

    assert chunks(plan) == [(0, 20, 1, True), (1, 3, 1, True), (2, 0, 14, False)]


def test_an_older_prompt_is_finished_before_a_younger_one_begins():
    one = scheduler()
    for id, length in [("a", 20), ("b", 20)]:
        one.add(request(id, length))

    assert chunks(step(one)[0]) == [(0, 0, 16, False)]
    assert chunks(step(one)[0]) == [(0, 16, 4, True), (1, 0, 12, False)]
    assert chunks(step(one)[0]) == [(0, 20, 1, True), (1, 12, 8, True)]


def test_more_requests_than_slots_wait_in_order():
    one = scheduler(max_batch_size=2)
    for id, max_tokens in [("a", 3), ("b", 1), ("c", 1), ("d", 1)]:
        one.add(request(id, 2, max_tokens=max_tokens))

    ended = []
    while one.has_work:
        _, outputs = step(one)
        assert one.stats().running <= 2
        ended += [output.id for output in outputs if output.finish_reason]

    assert ended == ["b", "c", "a", "d"]


def test_a_slot_is_released_in_the_plan_after_its_sequence_ended_and_used_again():
    one = scheduler(max_batch_size=1)
    one.add(request("a", 2, max_tokens=1))
    one.add(request("b", 2, max_tokens=1))

    first, _ = step(one)
    second, _ = step(one)

    assert (list(first.released), [a.slot for a in first.admitted]) == ([], [0])
    assert (list(second.released), [a.slot for a in second.admitted]) == ([0], [0])


def test_the_youngest_is_preempted_and_comes_back_first_with_all_its_tokens():
    one = scheduler(num_blocks=7)
    for id in "ab":
        one.add(request(id, 8, max_tokens=13))
    step(one)
    one.add(request("c", 2, max_tokens=1))
    plans = []
    while one.has_work:
        plans.append(step(one))

    assert one.stats().preemptions_total == 1
    preempted = next(plan for plan, _ in plans if list(plan.released) == [1])
    assert [chunk.slot for chunk in preempted.chunks] == [0]
    admissions = [a for plan, _ in plans for a in plan.admitted]
    assert [a.tokens[0] for a in admissions] == [ord("b"), ord("c")]
    # What it had generated came back with it.
    assert list(admissions[0].tokens[8:]) == [9] * (len(admissions[0].tokens) - 8)
    assert len(admissions[0].tokens) > 9
    assert admissions[0].num_prompt == 8


def test_the_oldest_advances_in_every_step():
    one = scheduler(num_blocks=8, block_size=2)
    for id in "abcd":
        one.add(request(id, 3, max_tokens=12))

    for _ in range(12):
        plan, outputs = step(one)
        assert plan.chunks[0].slot == 0
        assert outputs[0].id == "a"
    assert outputs[0].finish_reason == "length"


def test_a_step_that_preempts_admits_nobody():
    one = scheduler(num_blocks=7)
    for id in "abc":
        one.add(request(id, 8, max_tokens=13))
    while one.has_work:
        before = one.stats().preemptions_total
        plan, _ = step(one)
        assert not (plan.admitted and one.stats().preemptions_total > before)


def test_a_sequence_is_admitted_only_with_a_block_to_spare_for_each_running_one():
    one = scheduler(num_blocks=5)
    one.add(request("a", 8, max_tokens=4))
    step(one)
    one.add(request("b", 12, max_tokens=1))

    assert len(step(one)[0].chunks) == 1
    one.abort(["b"])
    one.add(request("c", 4, max_tokens=1))
    assert len(step(one)[0].chunks) == 2


def test_a_sequence_that_alone_cannot_fit_the_pool_is_refused():
    one = scheduler(num_blocks=2)

    with pytest.raises(RequestError, match="holds 8"):
        one.add(request("a", 9, max_tokens=1))
    assert not one.has_work


def test_a_sequence_aborted_while_its_step_runs_gives_no_output():
    one = scheduler()
    one.add(request("a", 4))
    one.add(request("b", 4))
    launched = one.schedule()

    aborted = one.abort(["a"])
    outputs = one.advance(launched, StepResult(tokens=[5, 6]))

    assert [(output.id, output.finish_reason) for output in aborted] == [("a", "abort")]
    assert [(output.id, output.tokens) for output in outputs] == [("b", [6])]
    assert list(one.schedule().released) == [0]


def test_a_waiting_sequence_can_be_aborted():
    one = scheduler(max_batch_size=1)
    for id in "ab":
        one.add(request(id, 4, max_tokens=2))
    step(one)

    assert [output.id for output in one.abort(["b"])] == ["b"]
    assert one.stats().waiting == 0


def test_blocks_shared_by_two_sequences_are_counted_once():
    one = scheduler(enable_prefix_caching=True)
    one.add(request("a", 13))
    step(one)
    one.add(Request(id="b", tokens=[ord("a")] * 13))

    plan, _ = step(one)

    assert chunks(plan) == [(0, 13, 1, True), (1, 12, 1, True)]
    assert plan.chunks[1].new_blocks[:3] == (0, 1, 2)
    assert one.stats().kv_used == 5 / 64


def test_a_preempted_sequence_finds_its_own_blocks_again():
    one = scheduler(num_blocks=7, enable_prefix_caching=True)
    for id in "ab":
        one.add(request(id, 8, max_tokens=13))
    starts = {}
    while one.has_work:
        plan, _ = step(one)
        for admission in plan.admitted:
            chunk = next(chunk for chunk in plan.chunks if chunk.slot == admission.slot)
            starts.setdefault(admission.tokens[0], []).append(chunk.start)

    assert starts[ord("a")] == [0]
    assert starts[ord("b")][0] == 0
    assert starts[ord("b")][1] > 0


class Ahead:
    """A scheduler of which every step but the last is taken in one step late."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.in_flight = deque()

    def schedule(self):
        one = self.scheduler.schedule()
        if one is not None:
            self.in_flight.append(one)
        return one

    def advance(self, token=9):
        one = self.in_flight.popleft()
        return self.scheduler.advance(one, result_of(one, token))


def test_a_step_is_scheduled_before_the_tokens_of_the_last_are_known():
    ahead = Ahead(scheduler())
    ahead.scheduler.add(request("a", 20, max_tokens=3))

    plans = [ahead.schedule() for _ in range(4)]

    assert [chunks(one.plan) for one in plans] == [
        [(0, 0, 16, False)],
        [(0, 16, 4, True)],
        [(0, 20, 1, True)],
        [(0, 21, 1, True)],
    ]
    # Its end is foreseen.
    assert ahead.schedule() is None
    outputs = [ahead.advance() for _ in range(4)]
    assert [[output.finish_reason for output in one] for one in outputs] == [
        [],
        [None],
        [None],
        ["length"],
    ]
    assert not ahead.scheduler.has_work


def test_a_sequence_whose_last_token_is_on_its_way_holds_nothing_and_can_be_aborted():
    ahead = Ahead(scheduler(max_batch_size=1))
    ahead.scheduler.add(request("a", 4, max_tokens=1))
    ahead.scheduler.add(request("b", 4, max_tokens=1))
    ahead.schedule()

    second = ahead.schedule()

    assert (list(second.released), [a.slot for a in second.admitted]) == ([0], [0])
    assert (ahead.scheduler.stats().running, ahead.scheduler.stats().kv_used) == (1, 1 / 64)
    assert [output.id for output in ahead.scheduler.abort(["a", "a"])] == ["a"]
    assert ahead.advance() == []
    assert [output.id for output in ahead.advance()] == ["b"]


def test_the_chunk_after_a_stop_token_gives_no_output():
    ahead = Ahead(scheduler())
    ahead.scheduler.add(Request(id="a", tokens=[1, 2, 3], stop_ids=(5,)))
    ahead.schedule()
    ahead.schedule()

    assert [output.finish_reason for output in ahead.advance(5)] == ["stop"]
    assert not ahead.scheduler.has_work
    assert ahead.advance() == []


def preempted_with_a_token_on_its_way():
    """Of two sequences the younger has just lost its blocks; the first step is read."""
    ahead = Ahead(scheduler(num_blocks=5, max_batch_tokens=32))
    for id in "ab":
        ahead.scheduler.add(Request(id=id, tokens=[ord(id)] * 8, stop_ids=(5,)))
    ahead.schedule()
    assert len(ahead.schedule().chunks) == 1
    assert (ahead.scheduler.stats().running, ahead.scheduler.stats().waiting) == (1, 1)
    return ahead


def test_the_token_of_a_preempted_sequence_arrives_while_it_waits():
    ahead = preempted_with_a_token_on_its_way()

    assert [(output.id, output.tokens) for output in ahead.advance(9)] == [("a", [9]), ("b", [9])]
    ahead.scheduler.abort(["a"])
    admission = ahead.schedule().admitted[0]
    assert list(admission.tokens) == [ord("b")] * 8 + [9]
    # What was launched for the aborted one is dropped, and the other's is still on its way.
    assert ahead.advance() == []
    assert [output.id for output in ahead.advance()] == ["b"]


def test_a_preempted_sequence_may_stop_while_it_waits():
    ahead = preempted_with_a_token_on_its_way()

    assert [output.finish_reason for output in ahead.advance(5)] == ["stop", "stop"]
    assert (ahead.scheduler.has_work, ahead.scheduler.stats().waiting) == (False, 0)
    assert ahead.scheduler.stats().kv_used == 0


def test_streams_get_a_token_in_every_step_while_long_prompts_keep_coming():
    ahead = Ahead(
        scheduler(
            num_blocks=4000,
            max_batch_size=16,
            max_batch_tokens=2048,
            max_length=9000,
            block_size=16,
        )
    )
    streams = [chr(ord("a") + n) for n in range(8)]
    for id in streams:
        ahead.scheduler.add(request(id, 100, max_tokens=1000))
    ahead.schedule()
    ahead.schedule()

    answered = 0
    for n in range(60):
        if n % 4 == 0:
            prompt = [1000 + n] * 8000
            ahead.scheduler.add(
                Request(id=f"long {n}", tokens=prompt, sampling=SamplingParams(max_tokens=2))
            )
        step = ahead.schedule()
        assert sum(chunk.num_tokens for chunk in step.chunks) <= 512
        given = [output.id for output in ahead.advance()]
        assert given[:8] == streams
        answered += len(given) - 8
    # Beside streams a step has 512 tokens: 60 of them are enough for three prompts.
    assert answered >= 2 * 3
