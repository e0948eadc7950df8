"""The decoder against transformers' Llama on the same weights, and with a plugin's own layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ferrule.layers import Attention, Decoder, DecoderLayer, Linear
from ferrule.layers.rope import rotate

TOKENS = torch.tensor([5, 0, 36, 12, 12, 7, 30, 1, 2, 19])


def transformers_llama(config, biases=False):
    """transformers' model of the same sizes, with random weights, norms and biases."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_word_embeddings,
            attention_bias=biases,
            mlp_bias=biases,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model.requires_grad_(False).eval()


def stored(model):
    """What ``save_pretrained`` writes: a tied head is stored once."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


BIASES = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "biases"])
def test_names_and_shapes_are_hugging_faces(config, shapes_of, tied, biases):
    numbers = config(tie_word_embeddings=tied, **biases)
    theirs = stored(transformers_llama(numbers, bool(biases)))
    with torch.device("meta"):
        decoder = Decoder(numbers)
    assert shapes_of(decoder) == {name: tuple(data.shape) for name, data in theirs.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "biases"])
def test_hidden_states_and_logits_equal_transformers(config, fill, causal, tied, biases):
    numbers = config(tie_word_embeddings=tied, **biases)
    theirs = transformers_llama(numbers, bool(biases))
    decoder = fill(Decoder(numbers), stored(theirs))
    hidden = decoder(TOKENS, torch.arange(len(TOKENS)), [causal] * 3)
    expected = theirs.model(TOKENS[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-4)
    some = hidden[[2, 9]]
    torch.testing.assert_close(
        decoder.logits(some), theirs(TOKENS[None]).logits[0, [2, 9]], rtol=1e-3, atol=1e-3
    )


def test_sequences_one_after_another_are_rotated_from_their_own_beginnings(config, fill, causal):
    theirs = transformers_llama(config())
    decoder = fill(Decoder(config()), stored(theirs))

    def each(q, k, v, rotation):
        q, k = rotate(q, rotation), rotate(k, rotation)
        return torch.cat([causal(q[part], k[part], v[part]) for part in (slice(4), slice(4, None))])

    positions = torch.cat((torch.arange(4), torch.arange(6)))
    hidden = decoder(TOKENS, positions, [each] * 3)
    for part in (slice(4), slice(4, None)):
        expected = theirs.model(TOKENS[None, part]).last_hidden_state[0]
        torch.testing.assert_close(hidden[part], expected, rtol=1e-3, atol=1e-4)


def test_each_layer_attends_through_its_own(config, fill, causal):
    decoder = fill(Decoder(config()), stored(transformers_llama(config())))
    called = []

    def attend(layer, *qkv):
        called.append(layer)
        return causal(*qkv)

    positions = torch.arange(len(TOKENS))
    decoder(TOKENS, positions, [partial(attend, layer) for layer in range(3)])
    assert called == [0, 1, 2]
    with pytest.raises(ValueError, match="shorter"):
        decoder(TOKENS, positions, [causal] * 2)


def test_specs_have_the_window_of_each_layer(config):
    decoder = Decoder(config(windows=(None, 7, 9)))
    assert [spec.window for spec in decoder.attention_specs()] == [None, 7, 9]
    assert {spec.num_kv_heads for spec in decoder.attention_specs()} == {2}


class Parallel(nn.Module):
    """A layer of a plugin's own: attention beside one projection, as in GPT-J."""

    def __init__(self, config, index):
        super().__init__()
        self.index = index
        self.self_attn = Attention(config, config.windows[index])
        self.beside = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden, rotation, attend):
        return hidden + self.self_attn(hidden, rotation, attend) + self.beside(hidden)


def test_a_layer_of_ones_own_takes_the_place_of_llamas(config, fill, shapes_of):
    numbers = config(windows=(None, 3, None), tie_word_embeddings=True)
    decoder = Decoder(numbers, layer=Parallel)
    assert [layer.index for layer in decoder.model.layers] == [0, 1, 2]
    assert [spec.window for spec in decoder.attention_specs()] == [None, 3, None]
    torch.manual_seed(1)
    tensors = {name: torch.randn(shape) / 5 for name, shape in shapes_of(decoder).items()}
    fill(decoder, tensors)
    # With attention that gives nothing, what is left is easily written down.
    hidden = decoder(TOKENS, torch.arange(len(TOKENS)), [lambda q, *_: torch.zeros_like(q)] * 3)
    x = tensors["model.embed_tokens.weight"][TOKENS].double()
    for index in range(3):
        x = x + x @ tensors[f"model.layers.{index}.beside.weight"].double().T
    x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * tensors["model.norm.weight"].double()
    torch.testing.assert_close(hidden.double(), x, rtol=1e-4, atol=1e-4)


def test_an_attention_of_ones_own_stands_in_llamas_layer(config, fill, causal, shapes_of):
    class Doubled(Attention):
        def forward(self, hidden, rotation, attend):
            return 2 * super().forward(hidden, rotation, attend)

    decoder = Decoder(config(), layer=partial(DecoderLayer, attention=Doubled))
    assert all(type(layer.self_attn) is Doubled for layer in decoder.model.layers)
    theirs = transformers_llama(config())
    tensors = stored(theirs)
    fill(decoder, tensors)
    for layer in theirs.model.layers:
        layer.self_attn.o_proj.weight.mul_(2)
    hidden = decoder(TOKENS, torch.arange(len(TOKENS)), [causal] * 3)
    expected = theirs.model(TOKENS[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-4)
