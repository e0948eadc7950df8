"""How far a model's positions reach."""

from __future__ import annotations

import pytest

from ferrule import ModelConfig, RopeConfig

TRAINED = 4096


def config(rope=(), **changes):
    return ModelConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        rms_norm_eps=1e-5,
        max_position_embeddings=TRAINED,
        rope=RopeConfig(rotary_dim=8, **dict(rope)),
        windows=(None,),
        **changes,
    )


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({}, TRAINED),
        ({"factor": 4.0}, TRAINED),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"type": "dynamic", "factor": 2.5}, 10240),
        # Llama 3.1 states the stretched context itself.
        (
            {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512},
            TRAINED,
        ),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        # A config that states the stretched context already is not stretched twice.
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, TRAINED),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}, TRAINED),
        ({"type": "yarn", "factor": 4.0}, TRAINED),
    ],
)
def test_stretched_positions_reach_further_than_trained_ones(rope, tokens):
    assert config(rope).context_length == tokens


def test_a_factor_need_not_give_whole_tokens():
    assert config({"type": "linear", "factor": 1.0001}).context_length == 4096
    assert config({"type": "linear", "factor": 1.5003}).context_length == 6145


def test_notes_do_not_make_two_configs_differ():
    assert config(notes=("the file counts",)) == config()
    assert config(qkv_bias=True) != config()
