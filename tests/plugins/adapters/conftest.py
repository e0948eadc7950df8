"""A tiny Llama under any names, on disk, and the plugins that ferrule comes with."""

from __future__ import annotations

import numpy as np
import pytest

from ferrule import Checkpoint, TensorInfo
from ferrule.matching import match
from ferrule.plugins import Plugins, discover

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, MLP, VOCAB, LAYERS = 2, 1, 4, 8, 12, 16, 2

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
}

LAYER_SHAPES = {
    "input_layernorm.weight": (HIDDEN,),
    "self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
    "post_attention_layernorm.weight": (HIDDEN,),
    "mlp.gate_proj.weight": (MLP, HIDDEN),
    "mlp.up_proj.weight": (MLP, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, MLP),
}


def llama_tensors():
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}": s for name, s in LAYER_SHAPES.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes.items()}


@pytest.fixture
def tensors():
    """Hugging Face's names to float32 arrays."""
    return llama_tensors()


@pytest.fixture
def config():
    """Its config.json."""
    return dict(CONFIG)


@pytest.fixture(scope="session")
def plugins():
    """The built-in ones alone, whatever else is installed."""
    found = discover().plugins
    return Plugins(tuple(plugin for plugin in found if plugin.distribution == "ferrule"))


@pytest.fixture
def store(tmp_path):
    """Writes arrays to a file and makes a checkpoint of them."""

    def make(tensors, config, kind="safetensors", metadata=()):
        file, infos, offset = tmp_path / "weights", {}, 0
        with file.open("wb") as out:
            for name, data in tensors.items():
                infos[name] = TensorInfo(
                    name=name,
                    shape=data.shape,
                    format="F32",
                    file=file,
                    offset=offset,
                    nbytes=data.nbytes,
                )
                offset += out.write(np.ascontiguousarray(data).tobytes())
        return Checkpoint(
            location="the/model",
            kind=kind,
            config=config,
            tensors=infos,
            metadata=dict(metadata),
        )

    return make


@pytest.fixture
def adapters_of(plugins):
    """Names of the adapters that a checkpoint needs."""
    return lambda checkpoint: [adapter.name for adapter in match(checkpoint, plugins).adapters]


@pytest.fixture
def assert_reads_as(plugins):
    """Asserts that a checkpoint's canonical tensors are exactly these arrays."""

    def check(checkpoint, expected):
        found = match(checkpoint, plugins)
        assert set(found.checkpoint.tensors) == set(expected)
        for name, data in expected.items():
            assert found.checkpoint.tensors[name].shape == data.shape, name
            got = found.read(name).view("<f4").reshape(data.shape)
            assert np.array_equal(got, data), name
        return found

    return check
