"""A tiny Llama as llama.cpp's converter writes it."""

from __future__ import annotations

import numpy as np
import pytest

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 12,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.rope.freq_base": 10000.0,
    "llama.rope.dimension_count": 4,
    "llama.vocab_size": 16,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS = {"q_proj": 2, "k_proj": 1}


def converted(tensors, *, permuted):
    """Hugging Face's tensors as convert_hf_to_gguf stores them."""
    out = {}
    for name, data in tensors.items():
        gguf_name = name
        for old, new in NAMES.items():
            gguf_name = gguf_name.replace(old, new)
        part = name.split(".")[-2]
        if permuted and part in HEADS:
            halves = data.reshape(HEADS[part], 2, data.shape[0] // HEADS[part] // 2, -1)
            data = halves.swapaxes(1, 2).reshape(data.shape)
        out[gguf_name] = data
    return out


@pytest.fixture
def llama_gguf(tensors, store):
    """Writes the tiny Llama with some metadata changed (None takes a key out)."""

    def make(changes=(), more=(), base_config=None, untied=True):
        metadata = {**METADATA, **dict(changes)}
        metadata = {key: value for key, value in metadata.items() if value is not None}
        kept = {name: data for name, data in tensors.items() if untied or name != "lm_head.weight"}
        stored = converted(kept, permuted=True) | dict(more)
        config = metadata if base_config is None else {**metadata, "base_config": base_config}
        return store(stored, config, kind="gguf", metadata=metadata)

    return make


@pytest.fixture
def qwen2_gguf(tensors, store):
    """The same as arch qwen2, with biases, which llama.cpp does not permute."""

    def make(changes=()):
        metadata = {k.replace("llama.", "qwen2."): v for k, v in METADATA.items()}
        metadata |= {"general.architecture": "qwen2", **dict(changes)}
        for layer in range(2):
            for part in "qkv":
                name = f"model.layers.{layer}.self_attn.{part}_proj"
                rows = tensors[f"{name}.weight"].shape[0]
                tensors[f"{name}.bias"] = np.arange(rows, dtype="<f4")
        return store(converted(tensors, permuted=False), metadata, kind="gguf", metadata=metadata)

    return make
