"""GGUF files as llama.cpp writes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ferrule import Checkpoint, Permute, WeightAdapter, hookimpl
from ferrule_plugins.adapters.gguf.config import huggingface_config

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

NAMES: Mapping[str, str | None] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    **{
        f"blk.{{n}}.{stored}.{{kind}}": f"model.layers.{{n}}.{canonical}.{{kind}}"
        for stored, canonical in _LAYER.items()
    },
    # Read into the config's rope_freq_factors (case F7).
    "rope_freqs.weight": None,
    # Frequencies that llama.cpp computes itself and that its first converters wrote (case W11).
    "blk.{n}.attn_rot_embd.weight": None,
}
"""ggml's tensor names to Hugging Face's."""


def _is(architecture: str, checkpoint: Checkpoint) -> bool:
    return (
        checkpoint.kind == "gguf" and checkpoint.config.get("general.architecture") == architecture
    )


# llama.cpp's converter turns q and k of Llama and Mistral for its own rotation (case F6).
llama = WeightAdapter(
    name="gguf-llama",
    matches=partial(_is, "llama"),
    names=NAMES,
    config=partial(huggingface_config, "llama"),
    rows={
        "model.layers.{n}.self_attn.q_proj.{kind}": Permute(heads="num_attention_heads"),
        "model.layers.{n}.self_attn.k_proj.{kind}": Permute(heads="num_key_value_heads"),
    },
)

qwen2 = WeightAdapter(
    name="gguf-qwen2",
    matches=partial(_is, "qwen2"),
    names=NAMES,
    config=partial(huggingface_config, "qwen2"),
)


@hookimpl
def weight_adapters() -> list[WeightAdapter]:
    """One dialect for each order of the rows of q and k."""
    return [llama, qwen2]
