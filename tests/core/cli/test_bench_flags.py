from __future__ import annotations

from pathlib import Path

import pytest
import typer

from ferrule.bench.settings import Load, Settings
from ferrule.bench.workload import Dataset, FixedLengths, ShareGptLengths
from ferrule.cli.bench_flags import Distribution, bench_flags
from ferrule.errors import OptionError

FILE = Path("talks.json")


def test_without_flags_eight_clients_ask_for_1024_and_256_tokens():
    assert bench_flags() == Settings(
        loads=(Load(concurrency=8, num_requests=32),), workload=FixedLengths()
    )


def test_lists_are_points():
    loads = bench_flags(concurrency="1,8", num_requests=5).loads
    assert [(each.concurrency, each.num_requests) for each in loads] == [(1, 5), (8, 5)]
    assert [each.rate for each in bench_flags(rate="0.5,8").loads] == [0.5, 8]


@pytest.mark.parametrize("flags", [{"concurrency": "1,x"}, {"concurrency": "1.5"}, {"rate": "2,"}])
def test_what_is_no_list_of_numbers_is_a_usage_error(flags):
    with pytest.raises(typer.BadParameter, match="is no list of numbers"):
        bench_flags(**flags)


def test_adapters_are_models():
    assert bench_flags(lora="a,b").models == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "workload"),
    [
        (
            {"input_len": 9, "output_len": 8, "shared_prefix": 7, "vocab": 600},
            FixedLengths(input_len=9, output_len=8, shared_prefix=7, vocab=600),
        ),
        (
            {"distribution": Distribution.sharegpt, "shared_prefix": 7, "vocab": 600},
            ShareGptLengths(shared_prefix=7, vocab=600),
        ),
        ({"dataset": FILE}, Dataset(file="talks.json")),
        ({"dataset": FILE, "output_len": 8}, Dataset(file="talks.json", output_len=8)),
    ],
)
def test_lengths_make_a_workload(flags, workload):
    assert bench_flags(**flags).workload == workload


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": FILE, "input_len": 9}, "--input-len cannot be given with --dataset"),
        ({"dataset": FILE, "vocab": 9}, "--vocab cannot be given with --dataset"),
        ({"dataset": FILE, "shared_prefix": 9}, "--shared-prefix cannot be given with --dataset"),
        ({"dataset": FILE, "distribution": Distribution.sharegpt}, "--dataset and --distribution"),
        (
            {"distribution": Distribution.sharegpt, "output_len": 9},
            "--output-len cannot be given with --distribution sharegpt",
        ),
        ({"concurrency": "1", "rate": "1"}, "--concurrency and --rate"),
        ({"concurrency": "0"}, "0 is no load"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message):
    with pytest.raises(OptionError, match=message):
        bench_flags(**flags)
