from __future__ import annotations

from ferrule.frontend.answer import Answer
from ferrule.frontend.completion import Delta
from ferrule.plan import TokenLogprobs

ENTRY = TokenLogprobs(logprob=-1.0, rank=1, top_ids=(), top_logprobs=())


def test_answer_is_the_sum_of_its_deltas():
    answer = Answer()
    answer.add(Delta(text="a", tokens=[5], offsets=[0], logprobs=[ENTRY]))
    answer.add(Delta())
    answer.add(
        Delta(
            text="b",
            tokens=[6],
            offsets=[1],
            logprobs=[ENTRY],
            finish_reason="stop",
            stop_reason="x",
        )
    )
    assert (answer.text, answer.tokens, answer.offsets) == ("ab", [5, 6], [0, 1])
    assert answer.logprobs == [ENTRY, ENTRY]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "x")


def test_logprobs_stay_absent_where_none_were_asked_for():
    answer = Answer()
    answer.add(Delta(text="a", tokens=[5]))
    assert answer.logprobs is None


def test_deltas_keep_their_own_lists():
    answer = Answer()
    delta = Delta(tokens=[5], logprobs=[ENTRY])
    answer.add(delta)
    answer.add(Delta(tokens=[6], logprobs=[ENTRY]))
    assert (delta.tokens, delta.logprobs) == ([5], [ENTRY])
