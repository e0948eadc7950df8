"""Adapters' slots, through whole engines over a store without tensors."""

from __future__ import annotations

from functools import partial

import pytest
from fake_runner import FakeRunner, generate_alone
from fake_store import FakeStore, known_loras

from ferrule.engine import loras as loras_module
from ferrule.engine.block_pool import BlockPool
from ferrule.engine.engine import Engine
from ferrule.engine.messages import LoraLoaded, LoraRefused, Request
from ferrule.engine.scheduler import Scheduler
from ferrule.plan import SamplingParams


class WatchedRunner(FakeRunner):
    """Sees that every sequence's adapter is in the slot that it was told, step by step."""

    def __init__(self, store, **options):
        super().__init__(**options)
        self.store = store
        self.wanted = {}
        self.asked = {}

    def launch(self, plan):
        for admission in plan.admitted:
            self.wanted[admission.slot] = admission.lora
        for chunk in plan.chunks:
            lora = self.wanted[chunk.slot]
            if lora >= 0:
                assert self.store.slots[lora] is not None, "an adapter that is not there yet"
        return super().launch(plan)


class Served:
    def __init__(self, *contents, num_slots=2, num_blocks=64, runs_ahead=False, max_batch_size=8):
        self.store = FakeStore(num_slots)
        runner = WatchedRunner(
            self.store,
            num_slots=max_batch_size,
            num_blocks=num_blocks,
            block_size=4,
            max_batch_tokens=32,
            runs_ahead=runs_ahead,
        )
        self.loras = known_loras(self.store, *contents)
        self.engine = Engine(
            Scheduler(
                BlockPool(num_blocks),
                max_batch_size=max_batch_size,
                max_batch_tokens=32,
                max_length=200,
                block_size=4,
                loras=self.loras,
            ),
            runner,
        )
        self.outputs = {}
        self.finished = []

    def step(self):
        for output in self.engine.step():
            self.outputs.setdefault(output.id, []).append(output)
            if output.finish_reason is not None:
                self.finished.append(output.id)

    def run(self, *requests, max_steps=5000):
        for request in requests:
            self.engine.add(request)
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError(f"still at work: {self.engine.stats()}")

    def tokens(self, id):
        return [token for output in self.outputs[id] for token in output.tokens]

    def error(self, id):
        return self.outputs[id][-1].error


@pytest.fixture(params=[False, True], ids=["step by step", "ahead"])
def serve(request):
    return partial(Served, runs_ahead=request.param)


def request(id, lora="", *, prompt=(1, 2, 3), max_tokens=8):
    sampling = SamplingParams(max_tokens=max_tokens, seed=len(id))
    return Request(id=id, tokens=list(prompt), sampling=sampling, lora=lora)


def test_more_adapters_than_slots_take_turns(serve):
    contents = [f"c{i}" for i in range(7)]
    served = serve(*contents, num_slots=2)
    asked = [request(f"{turn}{lora}", lora) for turn in range(4) for lora in (*contents, "")]
    served.run(*asked)
    for each in asked:
        assert served.tokens(each.id) == generate_alone(each, 200), each.id
    stats = served.engine.stats()
    assert (stats.loras_known, stats.loras_placed, stats.lora_slots) == (7, 2, 2)
    assert stats.lora_placements_total >= 7
    assert (stats.lora_host_bytes, stats.lora_device_bytes) == (100, 1000)


def test_an_adapter_in_use_stays_and_the_least_recently_wanted_goes(serve):
    served = serve("a", "b", "c", num_slots=2)
    served.run(request("1", "a"), request("2", "b"))
    served.run(request("3", "a"))
    served.run(request("4", "c"))
    assert set(served.store.slots) == {"a", "c"}


def test_base_requests_do_not_wait_for_an_adapter(serve):
    served = serve("a", "b", num_slots=1)
    served.run(
        request("long", "a", max_tokens=60), request("next", "b"), request("base", max_tokens=2)
    )
    assert served.finished == ["base", "long", "next"]


def test_nobody_starves_behind_requests_whose_adapter_is_there(serve, monkeypatch):
    monkeypatch.setattr(loras_module, "MOST_PASSED", 3)
    served = serve("a", "b", num_slots=1, max_batch_size=2)
    served.engine.add(request("a0", "a", max_tokens=30))
    for _ in range(4):
        served.step()
    served.run(request("b", "b"), *(request(f"a{i}", "a") for i in range(1, 12)))
    assert served.finished.index("b") <= 4


def test_preemption_gives_the_slot_back_and_takes_one_again(serve):
    contents = [f"c{i}" for i in range(3)]
    served = serve(*contents, num_slots=2, num_blocks=14)
    asked = [request(f"r{i}", contents[i % 3], max_tokens=24) for i in range(6)]
    served.run(*asked)
    for each in asked:
        assert served.tokens(each.id) == generate_alone(each, 200)
    assert served.engine.stats().preemptions_total > 0


def test_a_broken_adapter_ends_its_own_requests_and_is_tried_again(serve):
    served = serve("a", "broken", num_slots=1)
    served.store.broken = {"broken"}
    served.run(request("1", "broken"), request("2", "a"), request("3", "broken"), request("4"))
    assert (served.error("1"), served.error("3")) == ("it is broken", "it is broken")
    assert len(served.tokens("2")) == len(served.tokens("4")) == 8
    served.store.broken = set()
    served.run(request("5", "broken"))
    assert len(served.tokens("5")) == 8


def test_an_unknown_adapter_is_an_error_of_the_request_alone(serve):
    served = serve("a")
    served.run(request("1", "nobody"), request("2", "a"))
    assert "not loaded" in served.error("1")
    assert len(served.tokens("2")) == 8


def test_an_unloaded_adapter_serves_those_who_came_before(serve):
    served = serve("a", "b", num_slots=1)
    for each in (request("1", "a"), request("2", "b"), request("3", "a")):
        served.engine.add(each)
    for _ in range(4):
        served.step()
    served.engine.unload_lora("a")
    served.engine.unload_lora("b")
    assert served.store.forgotten == []
    served.run(request("late", "b"))
    assert all(len(served.tokens(id)) == 8 for id in "123")
    # Retired, but still there while others of its requests run; known until the last has ended.
    assert sorted(served.store.forgotten) == ["a", "b"]
    assert served.engine.stats().loras_known == 0
    served.run(request("later", "a"))
    assert "not loaded" in served.error("later")


def test_an_adapter_that_is_unloaded_on_its_way_goes_when_it_has_come(serve):
    served = serve("a", num_slots=1)
    served.engine.add(request("1", "a"))
    served.step()
    served.engine.unload_lora("a")
    served.engine.abort(["1"])
    served.run(request("2"))
    assert served.store.forgotten == ["a"]


def test_an_aborted_request_that_was_in_the_way_is_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(loras_module, "MOST_PASSED", 0)
    served = serve("a", "b", num_slots=1)
    served.engine.add(request("1", "a", max_tokens=40))
    for _ in range(4):
        served.step()
    served.engine.add(request("2", "b"))
    served.step()
    served.engine.abort(["2"])
    served.run(request("3", "a", max_tokens=1))
    assert served.finished == ["2", "3", "1"]


def test_loading_answers_by_ticket(serve):
    served = serve()
    served.engine.load_lora("t1", "here")
    served.engine.load_lora("t2", "wrong")
    assert served.engine.has_work
    served.step()
    loaded, refused = served.engine.take_replies()
    assert isinstance(loaded, LoraLoaded)
    assert (loaded.ticket, loaded.info.content) == ("t1", "here")
    assert refused == LoraRefused(
        ticket="t2", error_type="LoadError", message="wrong is no adapter", hint="Look."
    )
    assert not served.engine.has_work
    served.run(request("1", "here"))
    assert len(served.tokens("1")) == 8


def test_without_a_store_adapters_are_refused():
    loras = known_loras(None)
    loras.load("t", "somewhere")
    (refused,) = loras.take_replies()
    assert "not served" in refused.message
