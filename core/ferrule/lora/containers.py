"""Reads the three containers of adapters: PEFT's, mistral-finetune's and llama.cpp's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferrule.adapter import Permute, WeightAdapter
from ferrule.checkpoint.adapter_files import (
    CONFIG,
    AdapterFiles,
    find_adapter_files,
    tokenizer_files,
)
from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.checkpoint.gguf import read_gguf
from ferrule.checkpoint.open import Progress
from ferrule.checkpoint.safetensors import read_safetensors
from ferrule.checkpoint.small_files import find_small_files
from ferrule.checkpoint.stored_file import read_json_object
from ferrule.errors import CheckpointError, ConfigError
from ferrule.lora.peft_config import read_peft_config
from ferrule.lora.peft_names import parts_of
from ferrule.lora.stored import Part, PartKind, StoredAdapter

_LAYER = "model.layers.{n}"

MISTRAL = WeightAdapter(
    name="mistral-finetune",
    matches=lambda checkpoint: False,
    names={
        "layers.{n}.attention.wq.{kind}": f"{_LAYER}.self_attn.q_proj.{{kind}}",
        "layers.{n}.attention.wk.{kind}": f"{_LAYER}.self_attn.k_proj.{{kind}}",
        "layers.{n}.attention.wv.{kind}": f"{_LAYER}.self_attn.v_proj.{{kind}}",
        "layers.{n}.attention.wo.{kind}": f"{_LAYER}.self_attn.o_proj.{{kind}}",
        "layers.{n}.feed_forward.w1.{kind}": f"{_LAYER}.mlp.gate_proj.{{kind}}",
        "layers.{n}.feed_forward.w2.{kind}": f"{_LAYER}.mlp.down_proj.{{kind}}",
        "layers.{n}.feed_forward.w3.{kind}": f"{_LAYER}.mlp.up_proj.{{kind}}",
        "output.{kind}": "lm_head.{kind}",
        "tok_embeddings.{kind}": "model.embed_tokens.{kind}",
    },
    # Mistral's own code keeps rotary pairs side by side, as Meta's does.
    rows={
        f"{_LAYER}.self_attn.q_proj.{{kind}}": Permute(heads="num_attention_heads"),
        f"{_LAYER}.self_attn.k_proj.{{kind}}": Permute(heads="num_key_value_heads"),
    },
)
"""Names of Mistral's own code, in which mistral-finetune saves its adapters (case F5)."""


def read_adapter(location: str, progress: Progress | None = None) -> StoredAdapter:
    """Reads an adapter's config and headers.

    Args:
        location: As for ``find_adapter_files``.
        progress: Told of downloads.

    Raises:
        CheckpointError: It is missing, corrupt, or no adapter.
        ConfigError: It asks for what can be neither applied nor merged.
    """
    files = find_adapter_files(location, progress)
    readers = {"peft": _peft, "mistral": _mistral, "gguf": _gguf}
    stored = readers[files.container](location, files)
    if not stored.checkpoint.tensors:
        raise CheckpointError(f"{location} holds no tensors, so there is nothing to apply.")
    return stored


def _peft(location: str, files: AdapterFiles) -> StoredAdapter:
    config = read_peft_config(location, read_json_object(files.folder / CONFIG))
    checkpoint = _checkpoint(location, read_safetensors(files.weights))
    parts, unknown = parts_of(location, checkpoint.tensors, config)
    return StoredAdapter(
        container="peft",
        checkpoint=checkpoint,
        parts=parts,
        unknown=unknown,
        scale=config.scale,
        base=config.base,
        config=config,
        files=tokenizer_files(find_small_files(files.folder)),
    )


def _mistral(location: str, files: AdapterFiles) -> StoredAdapter:
    params = files.folder / "params.json"
    lora = read_json_object(params).get("lora") if params.is_file() else None
    scaling = lora.get("scaling") if isinstance(lora, dict) else None
    if not isinstance(scaling, int | float) or isinstance(scaling, bool):
        raise ConfigError(
            f"{location}: params.json has no lora.scaling, which {files.weights.name} needs.",
            hint="mistral-finetune writes params.json beside it; copy it from the checkpoint. "
            'A training that left it at its default has {"lora": {"scaling": 2.0}}.',
        )
    checkpoint = _checkpoint(location, read_safetensors(files.weights))
    endings = {".lora_A.weight": PartKind.a, ".lora_B.weight": PartKind.b}
    parts, unknown = _by_ending(checkpoint, endings)
    return StoredAdapter(
        container="mistral",
        checkpoint=checkpoint,
        parts=parts,
        unknown=unknown,
        scale=lambda rank, *names: float(scaling),
        base="",
        dialect=MISTRAL,
    )


def _gguf(location: str, files: AdapterFiles) -> StoredAdapter:
    header = read_gguf(files.weights)
    metadata = header.metadata
    _check_gguf(location, metadata)
    checkpoint = Checkpoint(
        location=location,
        kind="gguf",
        config={"general.architecture": metadata.get("general.architecture")},
        tensors=header.tensors,
    )
    endings = {".weight.lora_a": PartKind.a, ".weight.lora_b": PartKind.b}
    parts, unknown = _by_ending(checkpoint, endings)
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    return StoredAdapter(
        container="gguf",
        checkpoint=checkpoint,
        parts=parts,
        unknown=unknown,
        # llama.cpp's own rule (get_scale in llama-adapter.h): without an alpha the scale is 1.
        scale=lambda rank, *names: alpha / rank if alpha else 1.0,
        base=str(metadata.get("general.base_model.0.name", "")),
        notes=(
            "llama.cpp's converter drops use_rslora, rank_pattern and alpha_pattern: if the "
            "original adapter has them, serve that one",
        ),
    )


def _check_gguf(location: str, metadata: Mapping[str, Any]) -> None:
    kind, adapter = metadata.get("general.type"), metadata.get("adapter.type")
    if kind != "adapter" or adapter != "lora":
        raise CheckpointError(
            f"{location} is no LoRA adapter: general.type is {kind!r} and adapter.type {adapter!r};"
            " expected are 'adapter' and 'lora'."
        )
    if metadata.get("adapter.alora.invocation_tokens"):
        raise ConfigError(
            f"{location} is an activated LoRA, which acts only after certain tokens of a prompt.",
            hint="Train it as a plain LoRA.",
        )


def _checkpoint(location: str, tensors: Mapping[str, TensorInfo]) -> Checkpoint:
    return Checkpoint(location=location, kind="safetensors", config={}, tensors=tensors)


def _by_ending(
    checkpoint: Checkpoint, endings: Mapping[str, PartKind]
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    parts: list[Part] = []
    unknown: list[str] = []
    for name in checkpoint.tensors:
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        if ending is None:
            unknown.append(name)
        else:
            module = name.removesuffix(ending)
            parts.append(Part(stored=name, module=module, kind=endings[ending]))
    return tuple(parts), tuple(unknown)
