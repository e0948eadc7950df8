from __future__ import annotations

import sys

import msgspec
import pytest

from ferrule.bench.run import measure, need_aiohttp
from ferrule.bench.settings import Settings, make_loads
from ferrule.bench.workload import Dataset, FixedLengths
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError, OptionError

WORKLOAD = FixedLengths(input_len=8, output_len=4, vocab=256)


@pytest.fixture
def report_of(make_report):
    """``report_of(target=...)`` gives an empty report of a small measurement."""

    def make(**changes):
        settings = Settings(loads=make_loads((1, 3), (), 6), workload=WORKLOAD)
        return msgspec.structs.replace(
            make_report([]), **{"settings": settings, "model": "", **changes}
        )

    return make


def test_a_server_is_measured(server, report_of):
    shown = []
    report = report_of(target=server.url)
    measure(report, None, shown.append)
    assert report.model == "quick"
    assert [(each.concurrency, each.failed) for each in report.points] == [(1, 0), (3, 0)]
    assert [each.output_tokens for each in report.points] == [24, 24]
    assert server.most_at_once <= 3
    assert len(server.bodies) == 14
    assert shown[-1].detail.startswith("6 of 6 requests")


def test_a_name_that_is_given_is_asked_for(server, report_of):
    report = report_of(target=server.url, model="paced")
    measure(report, None, lambda _: None)
    assert {each["model"] for each in server.bodies} == {"paced"}


def test_a_checkpoint_is_measured_in_this_process(tiny_llama, report_of):
    shown = []
    engine = EngineOptions(model=str(tiny_llama), devices="cpu", num_kv_blocks=64)
    report = report_of(target=str(tiny_llama), mode="in-process")
    measure(report, engine, shown.append)
    assert report.model == str(tiny_llama)
    assert [(each.concurrency, each.output_tokens) for each in report.points] == [(1, 24), (3, 24)]
    assert "loading weights" in {each.stage for each in shown}


def test_an_error_of_the_engine_is_raised_as_it_is(tiny_llama, report_of, monkeypatch):
    def fail(_):
        raise FerruleError("the device is lost")

    monkeypatch.setattr("ferrule.engine.engine.Engine.step", fail)
    engine = EngineOptions(model=str(tiny_llama), devices="cpu", num_kv_blocks=64)
    with pytest.raises(FerruleError, match="the device is lost"):
        measure(report_of(mode="in-process"), engine, lambda _: None)


def test_a_dataset_that_cannot_be_read_is_told_before_anything_starts(report_of, tmp_path):
    settings = Settings(
        loads=make_loads((1,), (), 6), workload=Dataset(file=str(tmp_path / "none"))
    )
    with pytest.raises(OptionError, match="No such file"):
        measure(report_of(settings=settings), None, lambda _: None)


def test_a_missing_library_is_told_with_what_installs_it(monkeypatch, report_of):
    need_aiohttp()
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(FerruleError, match="aiohttp") as caught:
        measure(report_of(), None, lambda _: None)
    assert "pip install 'ferrule[bench]'" in caught.value.hint
