"""Every rope type against transformers' own frequencies."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from ferrule.layers.rope import Rope, attention_factor, inverse_frequencies, rotate
from ferrule.rope_config import read_rope

HEAD_DIM, LIMIT = 64, 4096

SETTINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn with all settings": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
        "truncate": False,
    },
    "yarn with its own attention factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.3,
    },
    "llama3 without an original context": {
        "rope_type": "llama3",
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}


def transformers_config(settings: dict) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=LIMIT,
        rope_parameters={"rope_theta": 500000.0, **settings},
    )


def our_config(settings: dict):
    config = {"rope_parameters": {"rope_theta": 500000.0, **settings}}
    return read_rope(config, head_dim=HEAD_DIM, max_position_embeddings=LIMIT)


@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies_and_scale_equal_transformers(name):
    theirs = transformers_config(SETTINGS[name])
    ours = our_config(SETTINGS[name])
    kind = SETTINGS[name]["rope_type"]
    if kind == "default":
        expected, factor = LlamaRotaryEmbedding(theirs).inv_freq, 1.0
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[kind](theirs, device="cpu")
    torch.testing.assert_close(inverse_frequencies(ours), expected, rtol=2e-6, atol=0)
    assert attention_factor(ours) == pytest.approx(factor)


@pytest.mark.parametrize("name", SETTINGS)
def test_rotated_heads_equal_transformers(name):
    theirs = transformers_config(SETTINGS[name])
    positions = torch.tensor([0, 1, 7, 100, 1023, 2047, 4095])
    q = torch.randn(len(positions), 4, HEAD_DIM)
    cos, sin = LlamaRotaryEmbedding(theirs)(q, positions[None])
    expected, _ = apply_rotary_pos_emb(q.transpose(0, 1)[None], q.transpose(0, 1)[None], cos, sin)
    rotation = Rope(our_config(SETTINGS[name]), LIMIT)(positions, torch.float32)
    torch.testing.assert_close(rotate(q, rotation), expected[0].transpose(0, 1), rtol=0, atol=2e-3)


def test_dynamic_rope_beyond_the_context_equals_transformers_token_by_token():
    theirs = LlamaRotaryEmbedding(transformers_config(SETTINGS["dynamic"]))
    ours = Rope(our_config(SETTINGS["dynamic"]), LIMIT)
    positions = torch.tensor([10, LIMIT - 1, LIMIT, LIMIT + 1, 2 * LIMIT, 3 * LIMIT])
    rotation = ours(positions, torch.float32)
    for i, position in enumerate(positions):
        theirs.inv_freq = theirs.original_inv_freq
        theirs.max_seq_len_cached = LIMIT
        cos, _ = theirs(torch.zeros(1), position[None, None])
        torch.testing.assert_close(rotation.cos[i, 0], cos[0, 0], rtol=0, atol=4e-3)


def test_frequency_factors_of_a_gguf_divide_the_frequencies():
    factors = [1.0 + i / 8 for i in range(HEAD_DIM // 2)]
    plain = our_config({"rope_type": "default"})
    config = {"rope_theta": 500000.0, "rope_freq_factors": factors}
    divided = read_rope(config, head_dim=HEAD_DIM, max_position_embeddings=LIMIT)
    torch.testing.assert_close(
        inverse_frequencies(divided) * torch.tensor(factors), inverse_frequencies(plain)
    )


def test_partial_rotation_leaves_the_other_channels_alone():
    config = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    rope = Rope(read_rope(config, head_dim=HEAD_DIM, max_position_embeddings=LIMIT), LIMIT)
    x = torch.randn(3, 2, HEAD_DIM)
    rotated = rotate(x, rope(torch.tensor([5, 6, 7]), torch.float32))
    assert torch.equal(rotated[..., 32:], x[..., 32:])
    assert not torch.allclose(rotated[..., :32], x[..., :32])
