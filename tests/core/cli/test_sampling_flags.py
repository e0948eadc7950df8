from __future__ import annotations

import inspect

from ferrule.cli.sampling_flags import sampling_flags
from ferrule.plan import SamplingParams


def test_only_what_was_asked_for_is_changed():
    assert sampling_flags() == {}
    assert sampling_flags(temperature=0.0, stop=["a", "b"], ignore_eos=True) == {
        "temperature": 0.0,
        "stop": ("a", "b"),
        "ignore_eos": True,
    }


def test_every_flag_is_a_sampling_parameter():
    assert set(inspect.signature(sampling_flags).parameters) <= set(
        SamplingParams.__struct_fields__
    )


def test_both_spellings_of_a_limit_are_taken(ferrule):
    text = ferrule("generate", "--help", env={"COLUMNS": "160"}).stdout
    assert "--max-tokens" in text
    assert "--max-new-tokens" in text
