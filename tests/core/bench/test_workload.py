from __future__ import annotations

import msgspec
import pytest

from ferrule.bench.workload import Dataset, FixedLengths, ShareGptLengths, Workload


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (FixedLengths(), "1024 tokens in, 256 out"),
        (FixedLengths(input_len=8, output_len=1, shared_prefix=4), "8 tokens in, 1 out, 4 shared"),
        (
            ShareGptLengths(shared_prefix=9),
            "lengths like ShareGPT's, about 230 tokens in, 203 out, 9 shared",
        ),
        (Dataset(file="a.json"), "prompts of a.json, out as in the file"),
        (Dataset(file="a.json", output_len=7), "prompts of a.json, out 7 tokens"),
    ],
)
def test_workloads_are_told_in_words_and_read_back(workload, words):
    assert workload.describe() == words
    assert msgspec.json.decode(msgspec.json.encode(workload), type=Workload) == workload
