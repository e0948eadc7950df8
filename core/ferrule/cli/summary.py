"""What a server says when it is ready: what is served, and how to ask it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from rich.table import Table
from rich.text import Text

from ferrule.cli.console import size, stderr
from ferrule.engine.messages import EngineInfo
from ferrule.frontend.model import ServedModel
from ferrule.plan import LoraInfo

_EVERY_INTERFACE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def show_summary(model: ServedModel, info: EngineInfo, *, host: str, port: int) -> None:
    """Writes the summary to stderr; the last lines can be pasted into a shell.

    Args:
        model: Its text side.
        info: What the engine runs.
        host: Where the server listens.
        port: On which port.
    """
    console = stderr()
    url = base_url(host, port)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for label, value in _rows(model, info):
        table.add_row(label, Text(value, style="yellow" if label == "note" else ""))
    console.print()
    console.print(table)
    console.print()
    everywhere = "  (on every interface of this machine)" if host in _EVERY_INTERFACE else ""
    served = ("Serving ", (model.name, "bold"), " at ", (f"{url}/v1", "bold green"), everywhere)
    console.print(Text.assemble(*served), soft_wrap=True)
    console.print()
    console.print(Text(curl(model, url)), soft_wrap=True)
    console.print()


def base_url(host: str, port: int) -> str:
    """Where a client on this machine finds the server."""
    host = _EVERY_INTERFACE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl(model: ServedModel, url: str) -> str:
    """A command that asks the model: for chat, a completion, or one from token ids."""
    body: dict[str, object] = {"model": model.name, "max_tokens": 64}
    if model.tokenizer is None:
        path = "completions"
        body |= {"prompt": [1, 2, 3], "return_token_ids": True}
    elif model.template is None:
        path = "completions"
        body |= {"prompt": "Once upon a time"}
    else:
        path = "chat/completions"
        body |= {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    return (
        f"curl {url}/v1/{path} \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def _rows(model: ServedModel, info: EngineInfo) -> Iterator[tuple[str, str]]:
    yield "architecture", f"{info.architecture}, weights read by {info.weight_adapter}"
    yield "weights", f"{size(info.weight_bytes)} as {info.dtype} on {info.device}"
    yield "context", f"{info.max_length} tokens"
    tokens = info.num_blocks * info.block_size
    yield "KV cache", f"{tokens} tokens, {size(info.kv_bytes)}"
    yield "batch", f"up to {info.max_batch_size} requests at a time"
    if info.max_lora_rank:
        room = f"up to rank {info.max_lora_rank}, {size(info.lora_bytes)} on the device"
        yield "adapters", f"{len(info.loras)} loaded, {room}"
    for line in _adapters(info.loras):
        yield "", line
    for note in (*info.notes, *model.notes):
        yield "note", note


def _adapters(loras: Mapping[str, LoraInfo]) -> Iterator[str]:
    """A line for each, below the kinds of modules that it touches, which many may share."""
    alike: dict[str, list[str]] = {}
    for name, lora in loras.items():
        alike.setdefault(", ".join(lora.kinds), []).append(f"  {name}: {lora.summary}")
    for kinds, lines in alike.items():
        yield f"in {kinds}:"
        yield from lines
