"""Settings of adapter_config.json that can be neither applied nor merged, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule.errors import ConfigError

_MERGE = "Merge it where it was trained, with model.merge_and_unload(), and serve the merged model."
_CONVERT = (
    "Convert it where it was trained to an adapter of the unchanged base: "
    "save_pretrained(..., path_initial_model_for_weight_conversion=...) of PEFT, or merge it there."
)
_CHANGED_BASE = (
    "such an initialisation changes the base's weights, so the adapter is wrong on the unchanged "
    "base"
)

_INITIALISATIONS = ("true", "false", "gaussian", "eva", "orthogonal")
"""Those that leave the base alone."""

_REFUSED: Mapping[str, tuple[str, str]] = {
    "alora_invocation_tokens": (
        "an activated LoRA acts only after certain tokens of a prompt",
        "Train it as a plain LoRA.",
    ),
    "arrow_config": ("it routes between several adapters, token by token", _MERGE),
    "kasa_config": (_CHANGED_BASE, _MERGE),
    "layer_replication": ("it repeats layers, which makes another model of the base", _MERGE),
    "lora_ga_config": (_CHANGED_BASE, _CONVERT),
    "megatron_config": ("it belongs to Megatron's parallel layers", "Export it as a PEFT adapter."),
    "monteclora_config": ("its weights are drawn at random", _MERGE),
    "target_parameters": (
        "it changes parameters of mixture-of-experts layers, which ferrule does not run",
        _MERGE,
    ),
    "use_bdlora": ("its matrices are block-diagonal", _MERGE),
    "use_qalora": ("it pools its inputs in groups for a quantised base", _MERGE),
}

# What shapes training only, or is read where it counts.
_UNDERSTOOD = frozenset(
    (
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
        "velora_config",
    )
)


def refuse_settings(location: str, values: Mapping[str, Any]) -> None:
    """Raises ConfigError for the first setting that cannot be served, with its reason."""
    kind = values.get("peft_type", "LORA")
    if kind != "LORA":
        raise ConfigError(f"{location} is a {kind} adapter of PEFT, not a LoRA.", hint=_MERGE)
    task = values.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ConfigError(
            f"{location} was trained for the task {task}; only CAUSAL_LM can be served."
        )
    start = str(values.get("init_lora_weights", True)).lower()
    if start not in _INITIALISATIONS:
        raise ConfigError(
            f"{location} has init_lora_weights {start!r}: {_CHANGED_BASE}.", hint=_CONVERT
        )
    for key, value in values.items():
        if not value or key in _UNDERSTOOD:
            continue
        if key not in _REFUSED:
            raise ConfigError(
                f"{location}: adapter_config.json has {key} = {value!r}, which is not understood.",
                hint="If it does not change what the adapter computes, remove the key.",
            )
        reason, hint = _REFUSED[key]
        raise ConfigError(f"{location} has {key}, and that cannot be applied: {reason}.", hint=hint)
