from __future__ import annotations

from ferrule.bench.measurement import measured


def times(**counts):
    return measured(
        prompt_tokens=3, cached_tokens=0, start=10.0, first=10.5, last=12.0, end=12.25, **counts
    )


def test_times_are_taken_from_the_sending():
    one = times(output_tokens=4)
    assert (one.ttft, one.e2e) == (0.5, 2.25)


def test_time_between_tokens_is_the_mean_from_the_first_to_the_last():
    assert times(output_tokens=4).itl == 0.5


def test_one_token_has_no_time_between_tokens():
    assert times(output_tokens=1).itl is None
