from __future__ import annotations

from math import log

import numpy as np
import pytest

from ferrule.errors import ConfigError
from ferrule.matching import match


@pytest.fixture
def rope_of(llama_gguf, plugins):
    """The settings of a file whose metadata has these keys under ``llama.rope.``."""

    def make(more=(), **keys):
        changes = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
        return match(llama_gguf(changes, more), plugins).config.rope

    return make


def test_the_base_is_read(rope_of):
    assert rope_of(freq_base=500000.0).theta == 500000.0


def test_c1_without_a_base_it_is_llama_cpps_default(rope_of):
    assert rope_of(freq_base=None).theta == 10000.0


@pytest.mark.parametrize(
    "keys",
    [
        {"scaling__type": "linear", "scaling__factor": 4.0},
        {"scaling__factor": 4.0},
        {"scale_linear": 4.0},
    ],
)
def test_linear_scaling_from_any_of_its_keys(rope_of, keys):
    rope = rope_of(**keys)
    assert (rope.type, rope.factor) == ("linear", 4.0)


@pytest.mark.parametrize(
    "keys",
    [
        {"scaling__type": "none"},
        {"scaling__type": "none", "scaling__factor": 4.0},
        {"scaling__type": "linear"},
        {"scaling__type": "linear", "scaling__factor": 1.0},
        {"scale_linear": 0.0},
    ],
)
def test_scaling_that_is_off(rope_of, keys):
    assert rope_of(**keys).type == "default"


def test_yarn(rope_of):
    rope = rope_of(
        scaling__type="yarn",
        scaling__factor=4.0,
        scaling__original_context_length=16,
        scaling__yarn_beta_fast=16.0,
        scaling__yarn_beta_slow=2.0,
    )
    assert (rope.type, rope.factor, rope.original_max_position_embeddings) == ("yarn", 4.0, 16)
    assert (rope.beta_fast, rope.beta_slow, rope.attention_factor) == (16.0, 2.0, None)


def test_yarns_magnitude_is_multiplied_by_the_files_factor(rope_of):
    rope = rope_of(
        scaling__type="yarn",
        scaling__factor=4.0,
        scaling__original_context_length=16,
        scaling__attn_factor=0.5,
    )
    assert rope.attention_factor == pytest.approx(0.5 * (0.1 * log(4.0) + 1.0))


def test_fewer_rotated_channels_than_a_head_has(rope_of):
    assert rope_of(dimension_count=2).rotary_dim == 2


def test_f7_frequencies_that_are_all_one_are_no_scaling(rope_of):
    assert rope_of({"rope_freqs.weight": np.ones(2, "<f4")}).freq_factors is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scaling__type": "longrope", "scaling__factor": 4.0}, "'longrope'.*understood are none"),
        ({"scaling__attn_factor": 2.0}, "attn_factor of 2"),
        (
            {"scaling__type": "yarn", "scaling__factor": 4.0, "scaling__yarn_ext_factor": 0.5},
            "yarn_ext_factor = 0.5",
        ),
        ({"scaling__alpha": 1000.0}, "alpha = 1000"),
        ({"freq_base": "big"}, "freq_base is 'big'; expected a number"),
    ],
)
def test_scaling_that_is_not_understood_is_refused(rope_of, keys, message):
    with pytest.raises(ConfigError, match=message):
        rope_of(**keys)
