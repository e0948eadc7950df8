"""Flags of every command that runs or examines a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ferrule.engine.options import EngineOptions

_MODEL = "Model"
_LIMITS = "Limits and memory"


class ResidentCopy(StrEnum):
    """The choices of ``--gguf-resident-copy``."""

    auto = "auto"
    on = "on"
    off = "off"


class Dtype(StrEnum):
    """What ``--dtype`` takes."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def flag(*names: str, panel: str | None = None, help: str, **settings: Any) -> Any:
    """An option whose value may also come from the environment.

    Args:
        names: As typed, such as ``--max-length``; ``FERRULE_MAX_LENGTH`` follows from the first.
        panel: Heading in the help.
        help: What it does.
        settings: More of ``typer.Option``.
    """
    variable = names[0].split("/")[0].strip("-").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=help,
        envvar=f"FERRULE_{variable}",
        show_envvar=False,
        rich_help_panel=panel,
        **settings,
    )


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A directory, a .gguf file, or org/name\\[@revision]\\[:Q4_K_M] on the Hugging Face "
        "Hub.",
    ),
]
ModelFlag = Annotated[
    str | None,
    typer.Option("--model", "--model-path", help="The same as MODEL.", rich_help_panel=_MODEL),
]
WeightPath = Annotated[
    str | None,
    flag(
        "--weight-path",
        panel=_MODEL,
        help="Other weights under MODEL's config and tokenizer: a file or directory, a file of "
        "MODEL, or org/repo/file.",
    ),
]
QuantizationEncoding = Annotated[
    str | None,
    flag(
        "--quantization-encoding",
        panel=_MODEL,
        help="The format that the weights must be in, such as q4_k_m or bfloat16; another one is "
        "an error. Chooses among several GGUF files.",
    ),
]
DtypeFlag = Annotated[
    Dtype,
    flag("--dtype", panel=_MODEL, help="Of activations; auto takes what the file holds most of."),
]
Devices = Annotated[
    str,
    flag("--devices", panel=_MODEL, metavar="auto|cpu|gpu|gpu:N", help="Where to run."),
]
ArchitectureFlag = Annotated[
    str | None,
    flag("--architecture", panel=_MODEL, help="Take this architecture, whatever matches."),
]
WeightAdapterFlag = Annotated[
    str | None,
    flag("--weight-adapter", panel=_MODEL, help="Take this weight adapter, whatever matches."),
]
PluginFiles = Annotated[
    list[Path] | None,
    flag(
        "--plugin",
        panel=_MODEL,
        metavar="FILE.py",
        exists=True,
        dir_okay=False,
        help="Use this file like an installed plugin; may be given several times.",
    ),
]
MaxLength = Annotated[
    int | None,
    flag(
        "--max-length",
        panel=_LIMITS,
        help="Most tokens of a sequence, prompt and output together. Without it: the model's "
        "context, or what of it fits into memory.",
    ),
]
MaxBatchSize = Annotated[
    int | None,
    flag("--max-batch-size", panel=_LIMITS, min=1, help="Most sequences that run together."),
]
MaxBatchInputTokens = Annotated[
    int | None,
    flag("--max-batch-input-tokens", panel=_LIMITS, min=1, help="Most tokens of one step."),
]
DeviceMemoryUtilization = Annotated[
    float | None,
    flag(
        "--device-memory-utilization",
        panel=_LIMITS,
        help="Share of the device's memory that may be used. Without it: 0.9 of a GPU, half of "
        "what is free on a host.",
    ),
]
KvCachePageSize = Annotated[
    int, flag("--kv-cache-page-size", panel=_LIMITS, min=1, help="Tokens of a KV cache block.")
]
NumKvBlocks = Annotated[
    int | None, flag("--num-kv-blocks", min=1, hidden=True, help="KV cache blocks, exactly.")
]
GgufResidentCopy = Annotated[
    ResidentCopy,
    flag(
        "--gguf-resident-copy",
        panel=_LIMITS,
        help="Whether packed weights on a GPU are kept as 16-bit numbers too, which makes prompts "
        "and large batches faster; auto: where enough memory is left for the KV cache.",
    ),
]
EnablePrefixCaching = Annotated[
    bool,
    flag(
        "--enable-prefix-caching/--no-enable-prefix-caching",
        panel=_LIMITS,
        help="Whether prompts with equal beginnings share their KV cache.",
    ),
]


def engine_flags(
    model: Model = None,
    model_flag: ModelFlag = None,
    weight_path: WeightPath = None,
    quantization_encoding: QuantizationEncoding = None,
    dtype: DtypeFlag = Dtype.auto,
    devices: Devices = "auto",
    architecture: ArchitectureFlag = None,
    weight_adapter: WeightAdapterFlag = None,
    plugins: PluginFiles = None,
    max_length: MaxLength = None,
    max_batch_size: MaxBatchSize = None,
    max_batch_input_tokens: MaxBatchInputTokens = None,
    device_memory_utilization: DeviceMemoryUtilization = None,
    kv_cache_page_size: KvCachePageSize = 64,
    num_kv_blocks: NumKvBlocks = None,
    gguf_resident_copy: GgufResidentCopy = ResidentCopy.auto,
    enable_prefix_caching: EnablePrefixCaching = True,
) -> EngineOptions:
    """The options of an engine from their flags.

    Raises:
        typer.BadParameter: No model was named, or two different ones.
    """
    return EngineOptions(
        model=_one_model(model, model_flag),
        weight_path=weight_path,
        quantization_encoding=quantization_encoding,
        dtype=dtype.value,
        devices=devices,
        architecture=architecture,
        weight_adapter=weight_adapter,
        plugins=tuple(str(path) for path in plugins or ()),
        max_length=max_length,
        max_batch_size=max_batch_size,
        max_batch_input_tokens=max_batch_input_tokens,
        device_memory_utilization=device_memory_utilization,
        kv_cache_page_size=kv_cache_page_size,
        num_kv_blocks=num_kv_blocks,
        gguf_resident_copy=gguf_resident_copy.value,
        enable_prefix_caching=enable_prefix_caching,
    )


def _one_model(argument: str | None, flag: str | None) -> str:
    if argument is not None and flag is not None and argument != flag:
        raise typer.BadParameter(
            f"two models are named, {argument!r} and --model {flag!r}; give one of them."
        )
    model = argument or flag
    if not model:
        raise typer.BadParameter(
            "missing; give a directory, a .gguf file, or org/name on the Hugging Face Hub.",
            param_hint="MODEL",
        )
    return model
