from __future__ import annotations

import json
import statistics

import pytest

from ferrule.bench.prompts import open_prompts
from ferrule.bench.workload import Dataset, FixedLengths, ShareGptLengths
from ferrule.errors import OptionError


def take(workload, num, seed=0):
    return open_prompts(workload, seed).take(num)


def test_fixed_lengths_are_exact():
    prompts = take(FixedLengths(input_len=33, output_len=7), 20)
    assert {(len(each.text), each.max_tokens) for each in prompts} == {(33, 7)}


def test_ids_leave_out_the_first_thousand_and_stay_below_the_vocabulary():
    ids = {id for each in take(FixedLengths(input_len=500, vocab=2100), 60) for id in each.text}
    assert (min(ids), max(ids)) == (1000, 2099)


def test_a_small_vocabulary_leaves_out_its_first_half():
    ids = {id for each in take(FixedLengths(input_len=500, vocab=256), 20) for id in each.text}
    assert (min(ids), max(ids)) == (128, 255)


@pytest.mark.parametrize("workload", [FixedLengths(input_len=50), ShareGptLengths()])
def test_a_seed_gives_its_prompts_again_and_another_one_others(workload):
    assert take(workload, 5, seed=1) == take(workload, 5, seed=1)
    assert take(workload, 5, seed=1) != take(workload, 5, seed=2)


def test_no_prompt_is_given_twice():
    prompts = open_prompts(FixedLengths(input_len=20), 0)
    taken = [tuple(each.text) for _ in range(4) for each in prompts.take(5)]
    assert len(set(taken)) == 20


def test_prompts_begin_with_the_shared_prefix_and_differ_after_it():
    prompts = take(FixedLengths(input_len=40, shared_prefix=30), 10)
    assert len({tuple(each.text[:30]) for each in prompts}) == 1
    assert len({each.text[30] for each in prompts}) > 5


def test_a_prefix_longer_than_the_prompt_is_refused():
    with pytest.raises(OptionError, match="--shared-prefix is 9 and --input-len 8"):
        open_prompts(FixedLengths(input_len=8, shared_prefix=9), 0)


def test_lengths_like_sharegpts_have_its_means_and_their_bounds():
    prompts = take(ShareGptLengths(), 4000)
    lengths = [len(each.text) for each in prompts]
    outputs = [each.max_tokens for each in prompts]
    assert statistics.mean(lengths) == pytest.approx(230, rel=0.06)
    assert statistics.mean(outputs) == pytest.approx(203, rel=0.06)
    assert statistics.median(lengths) == pytest.approx(120, rel=0.08)
    assert statistics.median(outputs) == pytest.approx(140, rel=0.08)
    assert min(lengths + outputs) == 4
    assert max(lengths) == 1024


def test_prompts_shorter_than_the_shared_prefix_are_its_begin():
    prompts = take(ShareGptLengths(shared_prefix=100), 50)
    longest = max((each.text for each in prompts), key=len)
    assert min(len(each.text) for each in prompts) < 100
    assert all(each.text[:100] == longest[: len(each.text)][:100] for each in prompts)


@pytest.fixture
def file(tmp_path):
    def talk(number):
        question = f"question number {number} of several words"
        answer = "an answer of ten words " * (2 + number)
        return {"conversations": [turn("human", question), turn("gpt", answer)]}

    def turn(who, text):
        return {"from": who, "value": text}

    path = tmp_path / "talks.json"
    path.write_text(json.dumps([talk(number) for number in range(6)]))
    return str(path)


def test_a_datasets_prompts_come_in_the_seeds_order(file):
    texts = [each.text for each in take(Dataset(file=file), 6, seed=1)]
    assert len(set(texts)) == 6
    assert texts == [each.text for each in take(Dataset(file=file), 6, seed=1)]
    assert texts != [each.text for each in take(Dataset(file=file), 6, seed=2)]


def test_a_datasets_answers_have_their_own_length_or_the_one_that_is_given(file):
    assert {each.max_tokens for each in take(Dataset(file=file), 6)} == {13, 20, 26, 32, 39, 46}
    assert {each.max_tokens for each in take(Dataset(file=file, output_len=5), 6)} == {5}


def test_a_dataset_that_is_too_small_begins_again_and_says_so(file):
    prompts = open_prompts(Dataset(file=file), 0)
    first = prompts.take(6)
    assert prompts.notes == ()
    assert prompts.take(6) == first
    assert prompts.notes == ("12 requests took their prompts from 6, some several times",)
