"""What trainers wrap around a model: prefixes, segments, and the model that it was a part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule import Checkpoint, WeightAdapter, hookimpl
from ferrule.errors import CheckpointError

Config = Mapping[str, Any]


def segment(name: str, component: str) -> WeightAdapter:
    """Takes a component out of names wherever it stands (cases W1 and W3)."""
    return WeightAdapter(
        name=name,
        kind="wrapper",
        matches=lambda checkpoint: _has_component(checkpoint, component),
        names={f"{{before*}}.{component}.{{after*}}": "{before*}.{after*}"},
    )


def prefix(name: str, text: str) -> WeightAdapter:
    """Takes a prefix off names (cases W2 and W4)."""
    return WeightAdapter(
        name=name,
        kind="wrapper",
        matches=lambda checkpoint: _begins(checkpoint, f"{text}."),
        names={f"{text}.{{rest*}}": "{rest*}"},
    )


def text_model(component: str) -> WeightAdapter:
    """Takes the language model out of a larger one, where it is called so (case W8).

    It counts only where a decoder's layers follow, with or without ``model.`` between: GPT-2's
    ``transformer.h`` and CLIP's ``text_model.encoder`` are something else.
    """
    inside = tuple(f".{component}.{between}layers." for between in ("", "model."))
    return WeightAdapter(
        name=f"text-model-{component}",
        kind="wrapper",
        matches=lambda checkpoint: any(
            part in f".{name}" and ".self_attn." in name
            for name in checkpoint.tensors
            for part in inside
        ),
        names={f"{{before*}}.{component}.{{after*}}": "{before*}.{after*}"},
    )


def refuse_unmerged(checkpoint: Checkpoint) -> Config:
    """Raises CheckpointError: LoRA weights beside the base weights they belong to (case W5)."""
    found = [name for name in checkpoint.tensors if not _UNMERGED.isdisjoint(name.split("."))]
    raise CheckpointError(
        f"{checkpoint.location} is unmerged PEFT state: {len(found)} of its "
        f"{len(checkpoint.tensors)} tensors are parts of an adapter, such as {found[0]}. Expected "
        "a merged model.",
        hint="Merge and save it first: model.merge_and_unload().save_pretrained(DIRECTORY).",
    )


_UNMERGED = frozenset(
    (
        "base_layer",
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "modules_to_save",
        "original_module",
    )
)

unmerged = WeightAdapter(
    name="peft-unmerged",
    kind="wrapper",
    matches=lambda checkpoint: any(_has_component(checkpoint, part) for part in _UNMERGED),
    names={},
    config=refuse_unmerged,
)

# `layers.N.attention` (Meta's names) and `layers.N.attn` (torchtune's) are dialects of their own.
bare_model = WeightAdapter(
    name="bare-model",
    kind="wrapper",
    matches=lambda checkpoint: (
        "embed_tokens.weight" in checkpoint.tensors
        or any(name.startswith("layers.") and ".self_attn." in name for name in checkpoint.tensors)
    ),
    names={
        f"{part}.{{rest*}}": f"model.{part}.{{rest*}}"
        for part in ("embed_tokens", "layers", "norm", "rotary_emb")
    },
)

doubled_model = WeightAdapter(
    name="doubled-model",
    kind="wrapper",
    matches=lambda checkpoint: _begins(checkpoint, "model.model.", "model.lm_head."),
    names={"model.model.{rest*}": "model.{rest*}", "model.lm_head.{rest*}": "lm_head.{rest*}"},
)

_OTHER_PARTS = (
    "vision_tower",
    "vision_model",
    "vision_embed_tokens",
    "visual",
    "multi_modal_projector",
    "mm_projector",
    "mm_whisper_embeddings",
    "audio_tower",
    "embed_vision",
    "embed_audio",
    "image_newline",
    "talker",
    "code2wav",
    "token2wav",
    "mtp",
    "mlp_AR",
)

other_parts = WeightAdapter(
    name="other-parts",
    kind="wrapper",
    matches=lambda checkpoint: (
        _begins(
            checkpoint, *(f"{outer}{part}." for part in _OTHER_PARTS for outer in ("", "model."))
        )
        or not {"image_newline", "model.image_newline"}.isdisjoint(checkpoint.tensors)
    ),
    names={f"{outer}{part}.{{rest*}}": None for part in _OTHER_PARTS for outer in ("", "model.")},
)

# Without a language-model head the score is what the model is for, and must not be dropped.
reward_head = WeightAdapter(
    name="reward-head",
    kind="wrapper",
    matches=lambda checkpoint: (
        _begins(checkpoint, "score.", "v_head.")
        and ("lm_head.weight" in checkpoint.tensors or _is_tied(checkpoint.config))
    ),
    names={"score.{rest*}": None, "v_head.{rest*}": None},
)

tied_head = WeightAdapter(
    name="tied-head",
    kind="wrapper",
    matches=lambda checkpoint: (
        _is_tied(checkpoint.config)
        and "lm_head.weight" in checkpoint.tensors
        and "model.embed_tokens.weight" not in checkpoint.tensors
        and _begins(checkpoint, "model.layers.")
    ),
    names={"lm_head.weight": "model.embed_tokens.weight"},
)


_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
# Keys that a text config may leave to the whole model's.
_SHARED = (
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "transformers_version",
)
_OTHER_KEYS = ("vision_", "image_", "video_", "audio_", "user_token_", "talker_", "token2wav_")
# The text halves of these compute what the plain family does.
_TEXT_TYPES = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_omni_text": "qwen2",
}


def has_text_config(checkpoint: Checkpoint) -> bool:
    """The config is a larger model's, with the text model's inside or beside (case W9)."""
    config = checkpoint.config
    return any(isinstance(config.get(key), Mapping) for key in (*_TEXT_CONFIGS, "vision_config"))


def text_config(checkpoint: Checkpoint) -> Config:
    """The text model's own config."""
    config = checkpoint.config
    inner = [config[key] for key in _TEXT_CONFIGS if isinstance(config.get(key), Mapping)]
    if inner:
        shared = {
            key: config[key] for key in _SHARED if key in config and inner[0].get(key) is None
        }
        config = {**inner[0], **shared}
    else:
        config = {key: value for key, value in config.items() if key != "architectures"}
    text = {key: value for key, value in config.items() if not key.startswith(_OTHER_KEYS)}
    kind = text.get("model_type")
    if kind in _TEXT_TYPES:
        text["model_type"] = _TEXT_TYPES[kind]
        text.pop("architectures", None)
        _drop_sections(text)
    return text


def _drop_sections(config: dict[str, Any]) -> None:
    """Text positions are the same in every section of a multimodal rope: it is the plain one."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if isinstance(rope, Mapping):
            plain = {k: "default" if v == "mrope" else v for k, v in rope.items()}
            config[key] = {k: v for k, v in plain.items() if not k.startswith("mrope_")}


whole_config = WeightAdapter(
    name="text-config", kind="wrapper", matches=has_text_config, names={}, config=text_config
)


def _has_component(checkpoint: Checkpoint, component: str) -> bool:
    return any(f".{component}." in f".{name}." for name in checkpoint.tensors)


def _begins(checkpoint: Checkpoint, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in checkpoint.tensors)


def _is_tied(config: Config) -> bool:
    return config.get("tie_word_embeddings") is True


@hookimpl
def weight_adapters() -> list[WeightAdapter]:
    """Wrappers; each is tried again after any other has been peeled off."""
    return [
        segment("torch-compile", "_orig_mod"),
        segment("fsdp", "_fsdp_wrapped_module"),
        segment("checkpoint-wrapper", "_checkpoint_wrapped_module"),
        prefix("data-parallel", "module"),
        prefix("peft-merged", "base_model.model"),
        *(text_model(c) for c in ("language_model", "text_model", "llm", "thinker", "transformer")),
        unmerged,
        bare_model,
        doubled_model,
        other_parts,
        reward_head,
        tied_head,
        whole_config,
    ]
