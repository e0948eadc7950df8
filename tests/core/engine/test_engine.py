from __future__ import annotations

import re
import time
from functools import partial

import pytest
from fake_runner import VOCAB_SIZE, FakePendingStep, FakeRunner, generate_alone, logprobs_of
from fake_store import FakeStore, known_loras
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import Request
from ferrule.engine.scheduler import Scheduler
from ferrule.plan import SamplingParams


class Served:
    """An engine over the fake runner, and what came out of it by request."""

    def __init__(
        self,
        *,
        num_blocks=64,
        block_size=4,
        max_batch_size=8,
        max_batch_tokens=32,
        max_length=200,
        enable_prefix_caching=True,
        runs_ahead=False,
        loras=None,
    ):
        self.max_length = max_length
        self.pool = BlockPool(num_blocks)
        self.runner = FakeRunner(
            num_slots=max_batch_size,
            num_blocks=num_blocks,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            runs_ahead=runs_ahead,
        )
        self.engine = Engine(
            Scheduler(
                self.pool,
                max_batch_size=max_batch_size,
                max_batch_tokens=max_batch_tokens,
                max_length=max_length,
                block_size=block_size,
                enable_prefix_caching=enable_prefix_caching,
                loras=loras,
            ),
            self.runner,
        )
        self.outputs = {}

    def step(self):
        new = self.engine.step()
        for output in new:
            self.outputs.setdefault(output.id, []).append(output)
        return new

    def run(self, *requests, max_steps=5000):
        for request in requests:
            self.engine.add(request)
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError("the engine does not come to an end")

    def tokens(self, id):
        return [token for output in self.outputs[id] for token in output.tokens]

    def last(self, id):
        return self.outputs[id][-1]


@pytest.fixture(params=[False, True], ids=["step by step", "ahead"])
def serve(request):
    return partial(Served, runs_ahead=request.param)


def request(id, tokens, *, stop_ids=(), cache_salt="", lora="", **sampling):
    return Request(
        id=id,
        tokens=list(tokens),
        sampling=SamplingParams(**({"seed": 7} | sampling)),
        stop_ids=tuple(stop_ids),
        cache_salt=cache_salt,
        lora=lora,
    )


def test_a_request_gives_its_tokens_one_a_step(serve):
    served, asked = serve(), request("a", range(10), max_tokens=5)

    served.run(asked)

    assert served.tokens("a") == generate_alone(asked, 200)
    assert [len(output.tokens) for output in served.outputs["a"]] == [1] * 5
    assert [output.finish_reason for output in served.outputs["a"]] == [None] * 4 + ["length"]


def test_a_stop_token_ends_the_sequence_and_is_its_last_token(serve):
    free = generate_alone(request("a", range(10), max_tokens=20), 200)
    served, asked = serve(), request("a", range(10), max_tokens=20, stop_ids=[free[3]])

    served.run(asked)

    assert served.tokens("a") == free[: free.index(free[3]) + 1]
    assert served.last("a").finish_reason == "stop"
    assert served.last("a").stop_reason == free[3]


def test_min_tokens_keep_a_sequence_going(serve):
    first = generate_alone(request("a", [1, 2], max_tokens=1), 200)[0]
    served = serve()

    served.run(request("a", [1, 2], max_tokens=9, min_tokens=4, stop_ids=[first]))

    assert len(served.tokens("a")) >= 4


def test_a_runner_that_does_not_mask_cannot_stop_a_sequence_before_min_tokens(serve):
    served = serve()
    served.runner.choose = lambda content, seed, masked: 3
    served.run(request("a", [1, 2], max_tokens=9, min_tokens=4, stop_ids=[3]))

    assert served.tokens("a") == [3, 3, 3, 3]
    assert served.last("a").finish_reason == "stop"


def test_the_context_ends_a_sequence_that_asks_for_more(serve):
    served, asked = serve(max_length=16), request("a", range(10), max_tokens=50)

    served.run(asked)

    assert len(served.tokens("a")) == 6
    assert served.last("a").finish_reason == "length"


def test_without_max_tokens_a_sequence_fills_the_context_or_the_cache(serve):
    in_context, in_cache = serve(max_length=40), serve(num_blocks=4)

    in_context.run(request("a", range(10), stop_ids=[]))
    in_cache.run(request("a", range(10), stop_ids=[]))

    assert len(in_context.tokens("a")) == 30
    # The last token needs no place in the cache.
    assert len(in_cache.tokens("a")) == 4 * 4 - 10 + 1
    assert in_cache.last("a").finish_reason == "length"


def test_no_tokens_asked_gives_only_the_prompts_logprobs(serve):
    served = serve()

    served.run(request("a", range(10), max_tokens=0, prompt_logprobs=1))

    (output,) = served.outputs["a"]
    assert (output.tokens, output.finish_reason) == ([], "length")
    assert output.prompt_logprobs == [None, *(logprobs_of(token) for token in range(1, 10))]
    assert served.engine.stats().generation_tokens_total == 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (request("bad", []), "no tokens"),
        (request("bad", [1] * 200), "200 tokens and the context holds 200"),
        (request("bad", [1] * 60, max_tokens=100), "159 tokens .* holds 64"),
        (request("bad", [1] * 100), "holds 64"),
    ],
)
def test_a_refused_request_says_why_and_harms_nobody(serve, bad, said):
    served, good = serve(num_blocks=16), request("good", range(10), max_tokens=5)

    served.run(good, bad)

    assert served.last("bad").finish_reason == "error"
    assert re.search(said, served.last("bad").error)
    assert served.tokens("good") == generate_alone(good, 200)
    assert served.pool.num_free == 16


def test_a_second_request_of_the_same_id_is_refused_and_the_first_goes_on(serve):
    served, first = serve(), request("a", range(10), max_tokens=5)
    served.engine.add(first)
    served.engine.add(request("a", [1, 2, 3]))

    served.run()

    assert "in progress" in served.outputs["a"][0].error
    assert served.tokens("a") == generate_alone(first, 200)


def test_an_aborted_request_says_so_and_frees_its_blocks_at_once(serve):
    served = serve()
    served.engine.add(request("a", range(10)))
    served.step()
    assert served.pool.num_free < 64

    served.engine.abort(["a", "unknown", "a"])

    assert served.pool.num_free == 64
    assert [output.finish_reason for output in served.step()] == ["abort"]
    assert not served.engine.has_work


def test_an_id_may_come_again_while_a_step_of_its_aborted_request_is_on_its_way(serve):
    served, second = serve(), request("a", [3, 4, 5], max_tokens=4)
    served.engine.add(request("a", range(10)))
    served.step()

    served.engine.abort(["a"])
    served.step()
    served.outputs.clear()
    served.run(second)

    assert served.tokens("a") == generate_alone(second, 200)


def test_an_error_of_the_runner_leaves_the_engine(serve):
    served = serve()
    served.engine.add(request("a", range(10)))
    served.runner.launch = lambda plan: 1 / 0

    with pytest.raises(ZeroDivisionError):
        served.step()


def test_a_step_is_launched_before_the_one_before_it_is_read():
    served = Served(runs_ahead=True)
    served.engine.add(request("a", range(10), max_tokens=3))

    seen = []
    while served.engine.has_work:
        new = served.step()
        seen.append((len(served.runner.plans), sum(len(output.tokens) for output in new)))

    # Steps launched so far, and tokens that came.
    assert seen == [(1, 0), (2, 1), (3, 1), (3, 1)]


def test_a_step_on_its_way_is_read_even_if_nobody_wants_it_any_more():
    served = Served(runs_ahead=True)
    served.engine.add(request("a", range(10)))
    served.step()
    served.engine.abort(["a"])

    assert served.engine.has_work
    assert [output.finish_reason for output in served.step()] == ["abort"]
    assert served.runner.unread == []
    assert not served.engine.has_work
    assert served.engine.step() == []


def test_a_sequence_that_ends_by_length_wastes_no_step(serve):
    served = serve(max_batch_size=1)

    served.run(*(request(str(n), [n] * 10, max_tokens=5) for n in range(3)))

    # The next in line has its slot in the very next step.
    assert [len(plan.chunks) for plan in served.runner.plans] == [1] * 15


def test_a_stop_token_is_found_one_step_late_at_most(serve):
    free = generate_alone(request("a", range(10), max_tokens=20), 200)
    served = serve()

    served.run(request("a", range(10), max_tokens=20, stop_ids=[free[3]]))

    num_wasted = len(served.runner.plans) - len(served.tokens("a"))
    assert num_wasted == (1 if served.runner.runs_ahead else 0)
    assert served.runner.unread == []


def test_prompts_of_one_step_share_their_blocks(serve):
    served, prompt = serve(max_batch_tokens=64), [token % 5 for token in range(17)]
    asked = [request(str(n), prompt, max_tokens=3, seed=n) for n in range(4)]

    served.run(*asked)

    first = served.runner.plans[0]
    assert [(chunk.start, chunk.num_tokens) for chunk in first.chunks] == [(0, 17)] + [(16, 1)] * 3
    for one in asked:
        assert served.tokens(one.id) == generate_alone(one, 200)


def test_only_what_is_scheduled_of_a_long_prompt_is_found(serve):
    served, prompt = serve(max_batch_tokens=10), [token % 5 for token in range(21)]
    served.run(request("long", prompt, max_tokens=1), request("same", prompt, max_tokens=1))

    chunks = [
        (chunk.start, chunk.num_tokens) for one in served.runner.plans for chunk in one.chunks
    ]
    # The long one leaves 9 tokens of the third step, and is in the cache up to token 20 by then.
    assert chunks == [(0, 10), (10, 10), (20, 1), (20, 1)]


def test_blocks_of_an_aborted_prompt_are_found(serve):
    served, prompt = serve(), [token % 5 for token in range(17)]
    served.engine.add(request("gone", prompt))
    served.step()
    served.engine.abort(["gone"])

    served.run(request("same", prompt, max_tokens=2))

    assert served.last("same").num_cached_tokens == 16


def test_logprobs_come_with_their_tokens(serve):
    served = serve()
    served.run(
        request("with", range(10), max_tokens=4, logprobs=1), request("without", [3], max_tokens=4)
    )

    entries = [entry for output in served.outputs["with"] for entry in output.logprobs]
    assert entries == [logprobs_of(token) for token in served.tokens("with")]
    assert all(output.logprobs is None for output in served.outputs["without"])


def test_prompt_logprobs_come_once_and_use_no_prefix_hit(serve):
    served, prompt = serve(max_batch_tokens=8), [token % 5 for token in range(21)]
    served.run(request("warm", prompt, max_tokens=2))

    served.run(request("a", prompt, max_tokens=3, prompt_logprobs=0))

    first, *rest = served.outputs["a"]
    assert first.prompt_logprobs == [None, *(logprobs_of(token) for token in prompt[1:])]
    assert all(output.prompt_logprobs is None for output in rest)
    assert first.num_cached_tokens == 0


def test_a_prefix_is_found_again_up_to_the_last_full_block_before_the_end(serve):
    served = serve()
    served.run(request("first", [token % 5 for token in range(16)], max_tokens=1))

    served.run(request("same", [token % 5 for token in range(16)], max_tokens=1))
    served.run(request("longer", [token % 5 for token in range(17)], max_tokens=1))

    assert served.last("first").num_cached_tokens == 0
    # Of 16 tokens the last must be computed, and a hit ends with a block.
    assert served.last("same").num_cached_tokens == 12
    assert served.last("longer").num_cached_tokens == 16
    stats = served.engine.stats()
    assert (stats.prefix_queries_total, stats.prefix_hits_total) == (49, 28)


def test_an_answer_is_found_again_as_the_next_prompts_prefix(serve):
    served = serve()
    served.run(request("first", range(10), max_tokens=10))

    served.run(request("second", [*range(10), *served.tokens("first"), 3], max_tokens=1))

    # 20 tokens were seen, 19 of them computed.
    assert served.last("second").num_cached_tokens == 16


@pytest.mark.parametrize("other", [{"cache_salt": "b"}, {"lora": "b"}])
def test_prefixes_are_not_shared_across_salts_and_adapters(serve, other):
    served = serve(loras=known_loras(FakeStore(), "b"))
    served.run(request("first", range(16), max_tokens=1))
    served.run(request("second", range(16), max_tokens=1, **other))
    assert served.last("second").num_cached_tokens == 0

    served.run(request("third", range(16), max_tokens=1, **other))
    assert served.last("third").num_cached_tokens == 12


def test_no_prefix_is_found_with_caching_off(serve):
    served = serve(enable_prefix_caching=False)
    served.run(request("first", range(16), max_tokens=1))
    served.run(request("second", range(16), max_tokens=1))

    assert served.last("second").num_cached_tokens == 0
    assert served.engine.stats().prefix_queries_total == 0


def test_preempted_sequences_give_the_tokens_that_they_give_alone(serve):
    asked = [request(str(n), range(n, n + 10), max_tokens=30, seed=n) for n in range(6)]
    served = serve(num_blocks=20, enable_prefix_caching=False)

    served.run(*asked)

    assert served.engine.stats().preemptions_total > 0
    for one in asked:
        assert served.tokens(one.id) == generate_alone(one, 200)
    assert served.pool.num_free == 20


def test_a_preempted_sequence_that_equals_another_comes_back_with_all_its_tokens(serve):
    # What the younger gives back it finds again in the older one's blocks, so there is room to
    # admit it in the step that preempted it, when a token of it is on its way.
    asked = [request(id, range(8), max_tokens=12) for id in "ab"]
    served = serve(num_blocks=10, block_size=2, max_batch_tokens=16)

    served.run(*asked)

    assert served.engine.stats().preemptions_total > 0
    for one in asked:
        assert served.tokens(one.id) == generate_alone(one, 200)


def test_a_preempted_sequence_keeps_the_seed_that_it_drew(serve):
    served = serve(num_blocks=16)
    served.run(*(request(str(n), [n] * 10, max_tokens=30, seed=None) for n in range(4)))

    seeds = {}
    for plan in served.runner.plans:
        for admission in plan.admitted:
            seeds.setdefault(admission.tokens[0], []).append(admission.sampling.seed)
    assert max(map(len, seeds.values())) > 1
    assert all(len(set(drawn)) == 1 for drawn in seeds.values())
    assert len({drawn[0] for drawn in seeds.values()}) == 4


def test_prompt_logprobs_survive_a_preemption_inside_the_prompt(serve):
    # The old one takes a block at each step, and the long prompt needs five steps.
    served = serve(num_blocks=41, block_size=1, max_batch_tokens=8)
    long = request("long", [token % 7 for token in range(30)], max_tokens=2, prompt_logprobs=0)
    served.run(request("old", range(8), max_tokens=20), long)

    assert served.engine.stats().preemptions_total > 0
    given = [one.prompt_logprobs for one in served.outputs["long"] if one.prompt_logprobs]
    assert given == [[None, *(logprobs_of(token) for token in long.tokens[1:])]]


def test_stats_count_what_was_done(serve):
    served = serve()
    served.run(request("a", range(10), max_tokens=5), request("b", range(3), max_tokens=2))

    stats = served.engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (13, 7)
    assert stats.steps_total == 5
    assert 0 < stats.host_seconds <= stats.step_seconds


def test_idle_time_is_the_runners_when_no_step_is_on_its_way(serve):
    served = serve()
    served.runner.num_left_to_do = 2
    served.engine.add(request("a", [1, 2, 3], max_tokens=3))
    with pytest.raises(AssertionError, match="something better"):
        served.engine.idle()
    served.run()
    assert [served.engine.idle() for _ in range(3)] == [True, False, False]


def test_waiting_for_the_device_is_no_time_of_the_host(serve, monkeypatch):
    served, result = serve(), FakePendingStep.result
    monkeypatch.setattr(FakePendingStep, "result", lambda one: time.sleep(0.01) or result(one))

    served.run(request("a", range(10), max_tokens=5))

    stats = served.engine.stats()
    assert stats.step_seconds - stats.host_seconds >= 5 * 0.01


PREFIXES = [[1] * 40, [1] * 8 + [2] * 32, [token % 3 for token in range(40)]]


class EngineMachine(RuleBasedStateMachine):
    """Requests come, go and run in any order, on a pool that is too small for them."""

    runs_ahead = False

    @initialize(
        num_blocks=st.integers(3, 24),
        block_size=st.integers(1, 5),
        max_batch_size=st.integers(1, 5),
        spare_tokens=st.integers(0, 20),
        enable_prefix_caching=st.booleans(),
    )
    def start(self, num_blocks, max_batch_size, spare_tokens, **options):
        self.num_blocks = num_blocks
        self.served = Served(
            num_blocks=num_blocks,
            max_batch_size=max_batch_size,
            max_batch_tokens=max_batch_size + spare_tokens,
            max_length=60,
            runs_ahead=self.runs_ahead,
            **options,
        )
        self.num_kv_tokens = num_blocks * options["block_size"]
        self.requests = {}
        self.aborted = set()

    @rule(
        prefix=st.sampled_from(PREFIXES),
        num_shared=st.integers(0, 40),
        tail=st.lists(st.integers(0, 3), max_size=6),
        max_tokens=st.integers(0, 30),
        min_tokens=st.integers(0, 3),
        stop_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=4),
        seed=st.integers(0, 3),
        cache_salt=st.sampled_from(["", "salt"]),
        prompt_logprobs=st.sampled_from([None, None, 0]),
    )
    def add(self, prefix, num_shared, tail, **options):
        asked = request(str(len(self.requests)), prefix[:num_shared] + tail, **options)
        self.requests[asked.id] = asked
        self.served.engine.add(asked)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data):
        id = data.draw(st.sampled_from(sorted(self.requests)))
        if not self.has_ended(id):
            self.aborted.add(id)
        self.served.engine.abort([id])

    @rule(num_steps=st.integers(1, 8))
    def step(self, num_steps):
        for _ in range(num_steps):
            self.served.step()

    @invariant()
    def the_pool_adds_up(self):
        if hasattr(self, "served"):
            stats = self.served.engine.stats()
            assert 0 <= stats.kv_used <= 1
            assert stats.running + stats.waiting <= len(self.requests)

    def has_ended(self, id):
        outputs = self.served.outputs.get(id)
        return bool(outputs) and outputs[-1].finish_reason is not None

    def teardown(self):
        if not hasattr(self, "served"):
            return
        self.served.run()
        assert self.served.runner.unread == []
        assert self.served.pool.num_free == self.num_blocks
        for id, asked in self.requests.items():
            self.check(asked, self.served.last(id), self.served.tokens(id))
        self.check_waste()

    def check_waste(self):
        """Chunks that sampled a token which nobody was given."""
        reasons = [outputs[-1].finish_reason for outputs in self.served.outputs.values()]
        num_silent = sum(
            asked.sampling.max_tokens == 0 and self.served.last(id).finish_reason == "length"
            for id, asked in self.requests.items()
        )
        num_sampled = sum(
            chunk.samples for plan in self.served.runner.plans for chunk in plan.chunks
        )
        num_given = self.served.engine.stats().generation_tokens_total
        num_surprises = reasons.count("stop") + reasons.count("abort")
        num_wasted = num_sampled - num_given - num_silent
        assert 0 <= num_wasted <= (num_surprises if self.runs_ahead else 0)

    def check(self, asked, last, tokens):
        prompt = len(asked.tokens)
        length = min(60, prompt + asked.sampling.max_tokens)
        fits = max(prompt, length - 1) <= self.num_kv_tokens
        alone = generate_alone(asked, 60) if prompt else []
        if not prompt or not fits:
            assert last.finish_reason in ("error", "abort")
            assert tokens == []
        elif last.finish_reason == "abort":
            assert asked.id in self.aborted
            assert tokens == alone[: len(tokens)]
        else:
            stopped = bool(alone) and alone[-1] in asked.stop_ids
            assert tokens == alone
            assert last.finish_reason == ("stop" if stopped else "length")


class AheadMachine(EngineMachine):
    runs_ahead = True


@pytest.mark.parametrize("machine", [EngineMachine, AheadMachine])
def test_everybody_gets_the_tokens_of_running_alone_whatever_happens(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None),
    )
