"""Compiles a share of a model's kernels into Triton's cache: ``python -m ferrule.precompile``.

A few such processes do together what the engine's warm-up would compile kernel by kernel. Kernels
depend on sizes and not on weights or the number of layers, so a model of a few layers will do.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch import nn

from ferrule.batch_limits import batch_limits
from ferrule.build import find_match
from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.enable_lora import touched_everywhere
from ferrule.engine.options import EngineOptions
from ferrule.loading import account, build, formats_by_owner
from ferrule.matching import Match
from ferrule.model_config import ModelConfig
from ferrule.plugins import Plugins
from ferrule.runtime.compiled_layers import compile_layers
from ferrule.runtime.device import resolve_device, resolve_dtype
from ferrule.runtime.kernel_attention import fits_kernels
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.lora_slots import LoraSlots
from ferrule.runtime.model import Model
from ferrule.weight_memory import keep_copies

_MANY_ROWS = 65536
"""From here on products are cut in one way, however many rows there are (kernels/tiles.py)."""
_DIVISOR = 16
"""Triton compiles a kernel of its own for integers that this divides."""
_NUM_BLOCKS = 2


def main() -> int:
    """Does every COUNT-th part from INDEX on: ``INDEX COUNT`` is a line on stdin, options the next.

    Whoever started it keeps stdin open; when that ends, so does this process.
    """
    # The driver begins before anybody needs it; on the device that takes no memory.
    torch.cuda.is_available()
    share = sys.stdin.buffer.readline()
    if not share:
        return 0
    index, count = map(int, share.split())
    options = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineOptions)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    device = resolve_device(options.devices)
    chosen = find_match(options, Plugins.installed([Path(file) for file in options.plugins]))
    dtype = resolve_dtype(options.dtype, chosen.checkpoint, device)
    module = small_model(chosen, dtype=dtype, device=device)
    if options.gguf_resident_copy == "on":
        keep_copies(module)
    model = cast("Model", module)
    if fits_kernels(model.attention_specs(), device):
        limits = batch_limits(options, device)
        loras = touched_everywhere(
            options, module, max_batch_size=limits.num_sequences, dtype=dtype, device=device
        )
        compile_layers(module, lora=loras and loras.state)
        runner = _runner(model, loras, options, chosen.config, dtype, device)
        with torch.inference_mode():
            for job in runner.compile_jobs()[index::count]:
                job()
    return 0


def small_config(config: ModelConfig, least_layers: int = 1) -> ModelConfig:
    """The same sizes in a few layers, and no more rows of the vocabulary than kernels can tell.

    One layer for each window, and one more: the last may compute fewer rows than those before.

    Args:
        config: Of the whole model.
        least_layers: That are wanted for another reason.
    """
    windows = (*dict.fromkeys(config.windows), config.windows[-1])
    windows += (config.windows[-1],) * (least_layers - len(windows))
    windows = windows[: config.num_layers]
    vocab_size = min(config.vocab_size, _MANY_ROWS + config.vocab_size % _DIVISOR)
    return replace(config, num_layers=len(windows), windows=windows, vocab_size=vocab_size)


def small_model(chosen: Match, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model of ``small_config`` with room for weights and nothing in it.

    Args:
        chosen: The checkpoint.
        dtype: Of activations.
        device: Where it will run.
    """
    tensors = chosen.checkpoint.tensors
    config = small_config(chosen.config, num_layers_of_all_formats(tensors))
    module = build(replace(chosen, config=config))
    for owner, formats in formats_by_owner(account(module, tensors), tensors):
        owner.allocate(formats, dtype=dtype, device=device)
        owner.finish()
    # Buffers alone: what was allocated is there already.
    return module.to(device).eval()


def num_layers_of_all_formats(tensors: Mapping[str, TensorInfo]) -> int:
    """How many of the first layers have every set of formats that a layer has.

    Q4_K_M keeps some matrices in Q6_K in the first eighth of the layers, and in some of the others.
    """
    layers: dict[int, set[tuple[str, str]]] = {}
    for name, info in tensors.items():
        if found := re.search(r"\.(\d+)\.", name):
            rest = name[: found.start()] + name[found.end() :]
            layers.setdefault(int(found[1]), set()).add((rest, info.format))
    kinds = [frozenset(layers[index]) for index in sorted(layers)]
    firsts = [kinds.index(kind) for kind in set(kinds)]
    return max(firsts, default=0) + 1


def _runner(
    model: Model,
    loras: LoraSlots | None,
    options: EngineOptions,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> KernelRunner:
    """The engine's runner with its limits, so that its kernels are the same, over a tiny cache."""
    limits = batch_limits(options, device)
    cache = KVCache(
        model.attention_specs(),
        num_blocks=_NUM_BLOCKS,
        block_size=options.kv_cache_page_size,
        dtype=dtype,
        device=device,
    )
    vocab_size = small_config(config).vocab_size
    num_unknown = config.vocab_size - (options.num_known_tokens or config.vocab_size)
    return KernelRunner(
        model,
        cache,
        max_batch_size=limits.num_sequences,
        max_tokens=limits.num_tokens,
        # Not a small one: kernels are made for the stride of the block tables too.
        max_length=options.max_length or config.context_length,
        vocab_size=vocab_size,
        num_known_tokens=max(vocab_size - num_unknown, 1),
        device=device,
        loras=loras,
    )


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    # With the compiler's own processes, where this one leads a group.
    with suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
