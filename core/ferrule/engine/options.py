"""How to run an engine: what a command line or a script may set."""

from __future__ import annotations

import msgspec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Options of an engine; the names are those of ``ferrule serve``'s flags.

    Attributes:
        model: A directory, a GGUF file, or ``org/name[@revision]``.
        weight_path: Other weights under the model's config and tokenizer.
        quantization_encoding: The format that the weights are expected to be in.
        dtype: Of activations: auto, bfloat16, float16 or float32.
        devices: auto, cpu, gpu or gpu:N.
        max_length: Most tokens of a sequence; None: the model's context, or what fits.
        max_batch_size: Most sequences that run together; None: by device.
        max_batch_input_tokens: Most tokens of a step; None: by device.
        kv_cache_page_size: Tokens of a KV block.
        num_kv_blocks: KV blocks; None: as many as are of use and fit.
        device_memory_utilization: Share of the device's memory that may be used; None: 0.9 of a
            GPU, and half of what is free on the host.
        gguf_resident_copy: auto, on or off: whether packed weights on a GPU are kept in the
            activations' type as well, for products of many rows.
        enable_prefix_caching: Whether prompts share the blocks of equal beginnings.
        architecture: Overrules the match.
        weight_adapter: Overrules the match.
        plugins: Python files to treat like installed plugins.
        enable_lora: Whether requests may name adapters.
        lora_paths: Adapters to read at the start, each a name and where it lies.
        enable_lora_updates: Whether adapters may come and go while serving.
        max_lora_rank: Most rank of an adapter; None: of those given, or 64.
        max_loras: Adapters on the device at a time; None: as many as are given, 8 at most.
        max_cpu_loras: Adapters in host memory; others are read again when they are wanted.
        num_known_tokens: Ids that the tokenizer knows; None: all rows of the embedding.
    """

    model: str
    weight_path: str | None = None
    quantization_encoding: str | None = None
    dtype: str = "auto"
    devices: str = "auto"
    max_length: int | None = None
    max_batch_size: int | None = None
    max_batch_input_tokens: int | None = None
    kv_cache_page_size: int = 64
    num_kv_blocks: int | None = None
    device_memory_utilization: float | None = None
    gguf_resident_copy: str = "auto"
    enable_prefix_caching: bool = True
    architecture: str | None = None
    weight_adapter: str | None = None
    plugins: tuple[str, ...] = ()
    enable_lora: bool = False
    lora_paths: tuple[tuple[str, str], ...] = ()
    enable_lora_updates: bool = False
    max_lora_rank: int | None = None
    max_loras: int | None = None
    max_cpu_loras: int = 64
    num_known_tokens: int | None = None
