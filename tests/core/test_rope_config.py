"""Rotary settings as real configs spell them."""

from __future__ import annotations

import pytest

from ferrule.errors import ConfigError
from ferrule.rope_config import read_rope


def read(config):
    return read_rope(config, head_dim=64, max_position_embeddings=4096)


def test_c1_theta_is_read_from_both_places():
    assert read({"rope_theta": 5e5}).theta == 5e5
    assert read({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}).theta == 1e6


def test_c2_type_and_rope_type_and_null_and_integer_factors_are_understood():
    assert read({"rope_scaling": None}).type == "default"
    old = read({"rope_scaling": {"type": "linear", "factor": 40}})
    assert (old.type, old.factor) == ("linear", 40.0)
    assert read({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}).type == "dynamic"


def test_c3_equal_settings_by_layer_type_are_one():
    settings = {"rope_type": "default", "rope_theta": 1e6}
    assert read({"rope_parameters": {"full_attention": settings}}).theta == 1e6


def test_c3_settings_that_differ_by_layer_type_are_refused():
    settings = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    with pytest.raises(ConfigError, match="differ by layer type"):
        read({"rope_parameters": settings})


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "longrope", "factor": 2.0}, "'longrope'; understood are default, linear"),
        ({"rope_type": "linear"}, "factor is None"),
        ({"rope_type": "linear", "factor": 0.5}, "factor is 0.5"),
        ({"rope_type": "linear", "factor": 2.0, "wobble": 1}, "not understood: wobble"),
    ],
)
def test_what_is_not_understood_is_refused(scaling, words):
    with pytest.raises(ConfigError, match=words):
        read({"rope_scaling": scaling})


def test_the_original_context_beside_the_settings_wins_as_in_transformers():
    config = {
        "original_max_position_embeddings": 2048,
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024},
    }
    assert read(config).original_max_position_embeddings == 2048
