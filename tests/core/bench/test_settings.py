from __future__ import annotations

import math

import msgspec
import pytest

from ferrule.bench.settings import Load, Settings, make_loads
from ferrule.bench.workload import FixedLengths
from ferrule.errors import OptionError


def test_each_number_is_a_point_with_enough_requests_for_it():
    assert make_loads((1, 64), (), None) == (
        Load(concurrency=1, num_requests=16),
        Load(concurrency=64, num_requests=256),
    )
    assert make_loads((), (0.25, 4.1), None) == (
        Load(rate=0.25, num_requests=16),
        Load(rate=4.1, num_requests=123),
    )


def test_the_number_of_requests_can_be_set():
    assert [each.num_requests for each in make_loads((1, 64), (), 5)] == [5, 5]
    assert [each.num_requests for each in make_loads((), (2.0,), 5)] == [5]


def test_both_kinds_of_load_are_refused():
    with pytest.raises(OptionError, match="--concurrency and --rate"):
        make_loads((1,), (1.0,), None)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_what_is_no_load_is_refused(value):
    with pytest.raises(OptionError, match="is no load"):
        make_loads((), (value,), None)


def test_loads_have_names():
    clients, rates = make_loads((1, 8), (), None), make_loads((), (1.0, 2.5), None)
    assert [each.name for each in clients] == ["1 client", "8 clients"]
    assert [each.name for each in rates] == ["1 request a second", "2.5 requests a second"]


def test_settings_are_written_and_read_back():
    settings = Settings(loads=make_loads((1,), (), None), workload=FixedLengths())
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
