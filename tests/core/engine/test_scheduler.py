from __future__ import annotations

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
    plan = scheduler.schedule()
    num_sampled = sum(chunk.samples for chunk in plan.chunks)
    return plan, scheduler.advance(plan, StepResult(tokens=[token] * num_sampled))


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
    plan = one.schedule()

    aborted = one.abort(["a"])
    outputs = one.advance(plan, StepResult(tokens=[5, 6]))

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
