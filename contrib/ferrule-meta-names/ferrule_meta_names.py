"""Weight names of Meta's original Llama checkpoints, and of Mistral's consolidated files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Checkpoint, Permute, WeightAdapter, hookimpl
from ferrule.errors import ConfigError

LAYER = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
PARAMS = {  # the keys of params.json, to Hugging Face's
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "max_seq_len": "max_position_embeddings",
    "sliding_window": "sliding_window",
}
SHAPES = {  # what params.json says as -1, or in factors to round
    "vocab_size": "tok_embeddings.weight",
    "intermediate_size": "layers.0.feed_forward.w1.weight",
}
REPLACED = {"vocab_size", "hidden_dim", "multiple_of", "ffn_dim_multiplier"}


def config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """config.json as it is, or params.json under Hugging Face's keys."""
    params, tensors = checkpoint.config, checkpoint.tensors
    if "dim" not in params:
        return {"num_key_value_heads": params.get("num_attention_heads"), **params}
    unknown = {key for key in params.keys() - PARAMS.keys() - REPLACED if params[key]}
    if unknown:
        raise ConfigError(
            f"params.json of {checkpoint.location} has keys that are not understood or do not say "
            f"enough: {', '.join(sorted(unknown))}.",
            hint="Put the config.json of the same model's Hugging Face release beside the weights.",
        )
    known = {PARAMS[key]: params[key] for key in params if key in PARAMS}
    return {
        "model_type": "mistral" if known.get("sliding_window") else "llama",
        "num_key_value_heads": params.get("n_heads"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **{key: tensors[name].shape[0] for key, name in SHAPES.items() if name in tensors},
        **{key: value for key, value in known.items() if value is not None},
    }


meta = WeightAdapter(
    name="meta",
    matches=lambda checkpoint: "layers.0.attention.wq.weight" in checkpoint.tensors,
    names={
        "tok_embeddings.weight": "model.embed_tokens.weight",
        **{
            f"layers.{{n}}.{old}.{{kind}}": f"model.layers.{{n}}.{new}.{{kind}}"
            for old, new in LAYER.items()
        },
        "norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        "rope.freqs": None,  # they follow from rope_theta
    },
    config=config,
    rows={
        "model.layers.{n}.self_attn.q_proj.{kind}": Permute(heads="num_attention_heads"),
        "model.layers.{n}.self_attn.k_proj.{kind}": Permute(heads="num_key_value_heads"),
    },
)


@hookimpl
def weight_adapters() -> list[WeightAdapter]:
    """The one dialect of this plugin."""
    return [meta]
