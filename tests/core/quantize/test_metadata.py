"""Rotary settings that have no key of their own, and those that cannot be said."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ferrule.errors import ConfigError
from ferrule.model_config import ModelConfig, RopeConfig
from ferrule.quantize.metadata import frequency_factors, model_metadata

from .conftest import LLAMA3, SIZES


def model(rope):
    return ModelConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        max_position_embeddings=128,
        rope=rope,
        windows=(None,) * 3,
    )


def test_llama3_divides_frequencies_as_transformers_does():
    config = LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    rope = RopeConfig(
        type="llama3", theta=5e5, rotary_dim=16, factor=4.0, original_max_position_embeddings=32
    )
    plain = 5e5 ** -(np.arange(8) / 8)
    assert np.allclose(frequency_factors(rope), plain / scaled.numpy(), rtol=1e-5)
    assert frequency_factors(RopeConfig(rotary_dim=16)) is None


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (RopeConfig(rotary_dim=8), "rotates 8 of 16 channels"),
        (RopeConfig(rotary_dim=16, type="dynamic", factor=2.0), "dynamic"),
        (
            RopeConfig(
                rotary_dim=16,
                type="yarn",
                factor=2.0,
                original_max_position_embeddings=64,
                mscale=0.7,
            ),
            "mscale",
        ),
    ],
)
def test_what_cannot_be_said_is_refused(rope, message):
    with pytest.raises(ConfigError, match=message):
        model_metadata("llama", model(rope))
