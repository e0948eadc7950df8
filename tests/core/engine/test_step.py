from __future__ import annotations

from ferrule.engine.messages import Request
from ferrule.engine.sequence import Sequence
from ferrule.engine.step import Step
from ferrule.plan import Admission, Chunk, SamplingParams


def sequence(num_tokens, *, final_length=20, slot=0):
    asked = Request(id="a", tokens=[1] * num_tokens, sampling=SamplingParams(seed=1))
    one = Sequence.from_request(asked, arrival=0, final_length=final_length)
    one.slot = slot
    return one


def test_the_plan_holds_what_was_added_in_order():
    step, first, second = Step(), sequence(8, slot=2), sequence(3, slot=1)
    admission = Admission(slot=1, tokens=(1, 1, 1), num_prompt=3, sampling=SamplingParams())
    step.released.append(1)
    step.admitted.append(admission)
    step.add(first, 5)
    step.add(second, 3, (7, 8))

    assert (list(step.plan.released), list(step.plan.admitted)) == ([1], [admission])
    assert list(step.plan.chunks) == [
        Chunk(slot=2, start=0, num_tokens=5, samples=False),
        Chunk(slot=1, start=0, num_tokens=3, new_blocks=(7, 8), samples=True),
    ]
    assert step.sequences == [first, second]


def test_what_was_added_counts_as_computed_and_its_token_as_a_token():
    one = sequence(8)

    Step().add(one, 5)
    assert (one.num_computed, one.num_tokens) == (5, 8)
    Step().add(one, 3)
    assert (one.num_computed, one.num_tokens) == (8, 9)
    assert len(one.tokens) == 8


def test_only_chunks_that_reach_the_end_are_sampled():
    step, inside, at_end = Step(), sequence(8), sequence(3)
    step.add(inside, 7)
    step.add(at_end, 3)

    assert step.sampled == [at_end]


def test_a_step_knows_whose_last_token_it_gives():
    step, goes_on, last, silent = Step(), sequence(8), sequence(8, final_length=9), sequence(8)
    silent.final_length = 8
    for one in (goes_on, last, silent):
        step.add(one, 7)
    assert step.ending == []

    for one in (goes_on, last, silent):
        step.add(one, 1)
    assert step.ending == [last, silent]
