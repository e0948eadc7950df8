"""Hugging Face's names, which are the canonical ones, and projections that a trainer has fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Checkpoint, Split, WeightAdapter, hookimpl

_LAYER = "model.layers.{n}"


def is_huggingface(checkpoint: Checkpoint) -> bool:
    """The embedding, or the attention of any layer, bears its usual name."""
    return "model.embed_tokens.weight" in checkpoint.tensors or any(
        name.startswith("model.layers.") and ".self_attn." in name for name in checkpoint.tensors
    )


huggingface = WeightAdapter(
    name="huggingface",
    matches=is_huggingface,
    names={
        # Buffers that older trainers saved; all follow from the config (case W11).
        "{rest*}.rotary_emb.inv_freq": None,
        "{rest*}.rotary_emb.cos_cached": None,
        "{rest*}.rotary_emb.sin_cached": None,
        "{rest*}.rotary_pos_emb.inv_freq": None,
        "{rest*}.attention.masked_bias": None,
        "{rest*}.attention.bias": None,
        "{rest*}.attn.masked_bias": None,
        "{rest*}.attn.bias": None,
        "model.{rest*}": "model.{rest*}",
        "lm_head.{rest*}": "lm_head.{rest*}",
    },
)


def has_fused_projections(checkpoint: Checkpoint) -> bool:
    """Some layer has q, k and v, or gate and up, in one tensor, and the config says their sizes."""
    fused = (".self_attn.qkv_proj.", ".self_attn.W_pack.", ".mlp.gate_up_proj.")
    return "num_attention_heads" in checkpoint.config and any(
        name.startswith("model.layers.") and any(part in name for part in fused)
        for name in checkpoint.tensors
    )


def split_qkv(config: Mapping[str, Any]) -> dict[str, int]:
    """All of q, then k, then v: the order of Phi-3's, Baichuan's and vLLM's fused tensors."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    return {f"{_LAYER}.self_attn.{part}_proj.{{kind}}": rows for part, rows in sizes.items()}


def split_gate_up(config: Mapping[str, Any]) -> dict[str, int]:
    """All of gate, then up."""
    rows = config["intermediate_size"]
    return {f"{_LAYER}.mlp.gate_proj.{{kind}}": rows, f"{_LAYER}.mlp.up_proj.{{kind}}": rows}


fused = WeightAdapter(
    name="fused-projections",
    kind="wrapper",
    matches=has_fused_projections,
    names={
        _LAYER + ".self_attn.qkv_proj.{kind}": _LAYER + ".self_attn.qkv_proj.{kind}",
        _LAYER + ".self_attn.W_pack.{kind}": _LAYER + ".self_attn.qkv_proj.{kind}",
        _LAYER + ".mlp.gate_up_proj.{kind}": _LAYER + ".mlp.gate_up_proj.{kind}",
    },
    rows={
        _LAYER + ".self_attn.qkv_proj.{kind}": Split(into=split_qkv),
        _LAYER + ".mlp.gate_up_proj.{kind}": Split(into=split_gate_up),
    },
)


@hookimpl
def weight_adapters() -> list[WeightAdapter]:
    """The canonical dialect, and the wrapper that takes fused projections apart."""
    return [huggingface, fused]
