"""Hugging Face's config keys for decoders, read strictly: what may count must be understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import ConfigError
from ferrule.model_config import ModelConfig
from ferrule.rope_config import ROPE_KEYS, read_rope

Config = Mapping[str, Any]
Windows = Callable[[Config, int], tuple[int | None, ...]]

WINDOW_KEYS = frozenset(("sliding_window", "use_sliding_window", "layer_types"))
"""Config keys that ``windows_by_layer`` reads."""

# What does not change a token that is generated: training, bookkeeping, generation defaults
# (read from elsewhere) and what torch decides for itself.
_HARMLESS = frozenset(
    """
    architectures attention_dropout auto_map bad_words_ids bos_token_id
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
    hidden_dropout id2label initializer_range is_decoder is_encoder_decoder label2id
    length_penalty max_length max_window_layers min_length model_max_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type
    pruned_heads remove_invalid_values repetition_penalty resid_pdrop return_dict
    return_dict_in_generate sep_token_id suppress_tokens task task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype
    torchscript typical_p unsloth_fixed use_bfloat16 use_cache use_flash_attn
    attn_implementation base_model_tp_plan base_config
    """.split()  # noqa: SIM905
)
_HARMLESS_PATTERN = re.compile(r"_.*|.*_version")

_READ = frozenset(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
    head_dim rms_norm_eps max_position_embeddings vocab_size tie_word_embeddings hidden_act
    attention_bias mlp_bias quantization_config
    """.split()  # noqa: SIM905
)

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))


def is_family(model_type: str, architecture: str) -> Callable[[Config], bool]:
    """A ``matches`` for a family known by its model_type or, without one, by its class.

    Args:
        model_type: As in config.json.
        architecture: The transformers class, such as ``LlamaForCausalLM``. Names that merely
            contain it (``LlamaForCausalLMBiased``, ``PeftLlamaForCausalLM``) count when the
            config has no model_type (case C6).
    """

    def matches(config: Config) -> bool:
        if found := config.get("model_type"):
            return found == model_type
        names = cast("list[str]", config.get("architectures") or [])
        return any(architecture.lower() in name.lower() for name in names)

    return matches


def decoder_config(
    checkpoint: Checkpoint,
    *,
    defaults: Config,
    known: Collection[str] = (),
    windows: Windows = lambda _, num_layers: (None,) * num_layers,
    qkv_bias: bool = False,
) -> ModelConfig:
    """The numbers of a Llama-like decoder.

    Ties, vocabulary rows and biases follow the file; where the config says otherwise, a note
    says so.

    Args:
        checkpoint: Canonical: Hugging Face's keys and names.
        defaults: What transformers takes for keys that a config leaves out.
        known: Keys that the architecture reads itself.
        windows: Sliding windows by layer, from the config and the number of layers.
        qkv_bias: Whether the family always has q/k/v biases.

    Raises:
        ConfigError: A key is missing, of the wrong type, or not understood.
    """
    config = {**defaults, **{k: v for k, v in checkpoint.config.items() if v is not None}}
    _refuse_unknown(config, known, checkpoint.location)
    _refuse_other_arithmetic(config, checkpoint)
    hidden = read(config, "hidden_size", int)
    heads = read(config, "num_attention_heads", int)
    layers = read(config, "num_hidden_layers", int)
    head_dim = read(config, "head_dim", int, hidden // heads)
    max_positions = read(config, "max_position_embeddings", int)
    follow = _FollowFile(checkpoint, config)
    return ModelConfig(
        vocab_size=follow.vocab_size(),
        hidden_size=hidden,
        intermediate_size=read(config, "intermediate_size", int),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=read(config, "num_key_value_heads", int, heads),
        head_dim=head_dim,
        rms_norm_eps=read(config, "rms_norm_eps", float),
        max_position_embeddings=max_positions,
        rope=read_rope(config, head_dim=head_dim, max_position_embeddings=max_positions),
        windows=windows(config, layers),
        qkv_bias=follow.bias("self_attn.q_proj", qkv_bias or bool(config.get("attention_bias"))),
        o_bias=follow.bias("self_attn.o_proj", bool(config.get("attention_bias"))),
        mlp_bias=follow.bias("mlp.gate_proj", bool(config.get("mlp_bias"))),
        tie_word_embeddings=follow.tie(),
        notes=tuple(follow.notes),
    )


_T = TypeVar("_T", int, float)


def read(config: Config, key: str, kind: type[_T], default: _T | None = None) -> _T:
    """A number of the config.

    Raises:
        ConfigError: It is missing and has no default, or it is not a number of this kind.
    """
    value = config.get(key, default)
    if value is None:
        raise ConfigError(
            f"The config has no {key!r}, and nothing can be assumed for it.",
            hint="Copy config.json from the base model if the fine-tuning tool left keys out.",
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value:
        expected = "an integer" if kind is int else "a number"
        raise ConfigError(f"The config's {key!r} is {value!r}; expected {expected}.")
    return kind(value)


def windows_by_layer(config: Config, num_layers: int) -> tuple[int | None, ...]:
    """``windows`` of Qwen's families: by ``layer_types``, else from ``max_window_layers`` upwards.

    Raises:
        ConfigError: ``layer_types`` are of another number or kind.
    """
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    first = config.get("max_window_layers", 28)
    types = config.get("layer_types") or [
        "full_attention" if i < first else "sliding_attention" for i in range(num_layers)
    ]
    if len(types) != num_layers or set(types) - {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"layer_types has {len(types)} entries of {', '.join(sorted(set(types)))}; expected "
            f"{num_layers} of full_attention or sliding_attention."
        )
    return tuple(window if kind == "sliding_attention" else None for kind in types)


class _FollowFile:
    """What the tensors decide, whatever the config says."""

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.tensors = checkpoint.tensors
        self.config = config
        self.notes: list[str] = []

    def vocab_size(self) -> int:
        said = self.config.get("vocab_size")
        embedding = self.tensors.get("model.embed_tokens.weight")
        if embedding is None:  # loading reports it as missing, with near misses
            return read(self.config, "vocab_size", int)
        rows = embedding.shape[0]
        if said is not None and said != rows:
            self.notes.append(
                f"vocab_size is {said} in the config and the embedding has {rows} rows: "
                "the file counts"
            )
        return rows

    def tie(self) -> bool:
        said = bool(self.config.get("tie_word_embeddings"))
        tied = "lm_head.weight" not in self.tensors
        if said and not tied:
            self.notes.append(
                "tie_word_embeddings is true in the config, but the file has an lm_head of its "
                "own: the file counts"
            )
        if tied and not said:
            self.notes.append(
                "tie_word_embeddings is false in the config, but the file has no lm_head: the "
                "embedding is the head"
            )
        return tied

    def bias(self, module: str, said: bool) -> bool:
        found = f"model.layers.0.{module}.bias" in self.tensors
        if found and not said:
            self.notes.append(f"the file has {module} biases that the config does not mention")
        # Without the tensors a bias that the config asks for is reported as missing.
        return found or said


def _refuse_unknown(config: Config, known: Collection[str], location: str) -> None:
    unknown = sorted(
        key
        for key, value in config.items()
        if key not in _READ
        and key not in _HARMLESS
        and key not in ROPE_KEYS
        and key not in known
        and not _HARMLESS_PATTERN.fullmatch(key)
        and value not in (None, False, "", [], {})
    )
    if unknown:
        listed = ", ".join(f"{key} = {str(config[key])[:60]}" for key in unknown)
        raise ConfigError(
            f"The config of {location} has keys that may change the arithmetic and that this "
            f"architecture does not understand: {listed}.",
            hint="If they do not matter, remove them from config.json; if they do, the model "
            "needs an architecture plugin that computes them (see docs: first architecture).",
        )


def _refuse_other_arithmetic(config: Config, checkpoint: Checkpoint) -> None:
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ConfigError(
            f"hidden_act is {activation!r}; this architecture computes 'silu'.",
            hint="Another activation needs an architecture plugin of its own.",
        )
    quantization = config.get("quantization_config")
    formats = {info.format for info in checkpoint.tensors.values()}
    # A merged 16-bit file often keeps the key of the 4-bit model it was trained from (case C12).
    if quantization and checkpoint.kind == "safetensors" and not formats <= _FLOATS:
        method = cast("Config", quantization).get("quant_method", "unknown")
        raise ConfigError(
            f"The checkpoint is quantised ({method}; its tensors are {', '.join(sorted(formats))})."
            " Expected plain 16- or 32-bit weights, or a GGUF file.",
            hint="Merge and save the model in 16 bits, or convert it to GGUF.",
        )
