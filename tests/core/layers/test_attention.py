"""Attention's projections and rotation against transformers; the seam is plain attention here."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from ferrule.layers import Attention, Rope
from ferrule.layers.rope import rotate

HIDDEN, HEADS, KV_HEADS, DIM = 24, 4, 2, 8


@pytest.fixture(params=["no biases", "all biases", "no bias on o"])
def theirs(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
        attention_bias=request.param != "no biases",
        attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    attention = LlamaAttention(config, layer_idx=0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    if request.param == "no bias on o":  # as Qwen2 has it
        attention.o_proj.bias = None
    return attention.requires_grad_(False).eval()


@pytest.fixture
def ours(theirs, fill, config):
    tensors = {f"a.self_attn.{name}": data for name, data in theirs.state_dict().items()}
    biases = {
        "qkv_bias": theirs.q_proj.bias is not None,
        "o_bias": theirs.o_proj.bias is not None,
    }
    return fill(Attention(config(**biases)), tensors, "a.self_attn")


@pytest.fixture
def rope(config):
    """``rope(positions)`` as the decoder makes it for a step's tokens."""
    rope = Rope(config().rope, 64)
    return lambda positions: rope(positions, torch.float32)


def angles(theirs, positions):
    return LlamaRotaryEmbedding(theirs.config)(torch.zeros(1), positions[None])


def test_output_equals_transformers(theirs, ours, rope, causal):
    hidden, positions = torch.randn(11, HIDDEN), torch.arange(11)
    mask = torch.full((11, 11), -torch.inf).triu(1)[None, None]
    expected, _ = theirs(hidden[None], angles(theirs, positions), mask)
    found = ours(hidden, rope(positions), causal)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-4)


def seen_by_attend(attention, hidden, rotation):
    """What is handed through the seam."""
    seen = []

    def attend(q, k, v, rotation):
        seen.extend((rotate(q, rotation), rotate(k, rotation), v))
        return torch.zeros_like(q)

    attention(hidden, rotation, attend)
    return seen


def test_queries_and_keys_come_with_their_rotation(theirs, ours, rope):
    hidden, positions = torch.randn(5, HIDDEN), torch.tensor([3, 0, 40, 41, 7])
    q, k, v = seen_by_attend(ours, hidden, rope(positions))
    projections = theirs.q_proj, theirs.k_proj, theirs.v_proj
    expected = [proj(hidden).view(5, -1, DIM).transpose(0, 1)[None] for proj in projections]
    expected[:2] = apply_rotary_pos_emb(*expected[:2], *angles(theirs, positions))
    for found, other, heads in zip((q, k, v), expected, (HEADS, KV_HEADS, KV_HEADS), strict=True):
        assert found.shape == (5, heads, DIM)
        torch.testing.assert_close(found, other[0].transpose(0, 1), rtol=1e-4, atol=1e-4)


def test_a_token_is_rotated_by_its_own_position_whatever_stands_beside_it(ours, rope):
    hidden, positions = torch.randn(6, HIDDEN), torch.tensor([0, 1, 2, 0, 1, 9])
    together = seen_by_attend(ours, hidden, rope(positions))
    for token in range(6):
        one = slice(token, token + 1)
        alone = seen_by_attend(ours, hidden[one], rope(positions[one]))
        for batched, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batched[one], single, rtol=1e-5, atol=1e-5)


def test_heads_are_put_together_in_order_before_they_are_projected_back(theirs, ours, rope):
    """The output projection must see head 0's channels, then head 1's ..."""
    out = torch.randn(3, HEADS, DIM)
    found = ours(torch.randn(3, HIDDEN), rope(torch.arange(3)), lambda *_: out)
    torch.testing.assert_close(found, theirs.o_proj(out.reshape(3, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [None, 5])
def test_the_spec_says_what_the_runtime_must_know(config, window):
    spec = Attention(config(head_dim=16), window).spec
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim) == (HEADS, KV_HEADS, 16)
    assert spec.window == window
    assert spec.scale == 0.25
