"""What ``ferrule inspect`` shows to people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import groupby
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ferrule.cli.console import size, stdout
from ferrule.cli.tensor_groups import TensorGroup, group_tensors, ranges
from ferrule.inspection.report import AttentionLayer, Inspection
from ferrule.model_config import RopeConfig

_ROPE_DEFAULTS = {field.name: field.default for field in fields(RopeConfig)}


def show(report: Inspection) -> None:
    """Writes the report to stdout."""
    console = stdout()
    title = f"  {report.kind}, {size(report.memory.stored_bytes)}"
    console.print(Text.assemble((report.location, "bold"), title), soft_wrap=True)
    _section(console, "Match", _grid(_match_rows(report)))
    _section(console, "Model", _grid(_model_rows(report)))
    _section(console, "Tensors", *_tensor_tables(group_tensors(report.destinations)))
    if report.ignored:
        _section(console, "Left out", _grid(report.ignored.items()))
    _section(console, "Memory", _grid(_memory_rows(report)))
    if report.notes:
        _section(console, "Notes", *(Text(note, style="yellow") for note in report.notes))
    console.print()


def _section(console: Console, title: str, *contents: RenderableType) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    for content in contents:
        console.print(Padding(content, (0, 0, 0, 2), expand=False))


def _grid(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _match_rows(report: Inspection) -> Iterator[tuple[str, ...]]:
    for choice in report.choices:
        others = report.not_chosen.get(choice.kind)
        unlike = f"; not {', '.join(others)}" if others else ""
        kind = "weight adapter" if choice.kind == "dialect" else choice.kind
        yield kind, choice.name, f"({choice.origin})", choice.reason + unlike


def _model_rows(report: Inspection) -> Iterator[tuple[str, str]]:
    config = report.config
    yield "layers", f"{config['num_layers']} of {config['hidden_size']} channels"
    yield "MLP", f"{config['intermediate_size']} channels"
    yield "vocabulary", f"{config['vocab_size']} rows"
    yield from _by_layers("attention", report.layers, _heads)
    yield from _by_layers("window", report.layers, _window)
    for rope in report.ropes:
        yield "rope", _rope(rope)
    yield "context", f"{report.context_length} tokens"
    yield "head", "tied to the embedding" if config["tie_word_embeddings"] else "of its own"
    named = {"qkv_bias": "q, k, v", "o_bias": "o", "mlp_bias": "MLP"}
    biases = [words for key, words in named.items() if config[key]]
    yield "biases", ", ".join(biases) or "none"
    yield "dtype", f"{report.dtype} on {report.device}"


def _by_layers(
    label: str, layers: list[AttentionLayer], describe: Callable[[AttentionLayer], str]
) -> Iterator[tuple[str, str]]:
    """A row for all layers, or one for each way in which they differ."""
    ways: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        ways.setdefault(describe(layer), []).append(number)
    for way, numbers in ways.items():
        yield label, way if len(ways) == 1 else f"{way}, in layers {ranges(numbers)}"


def _heads(layer: AttentionLayer) -> str:
    return (
        f"{layer.num_heads} query and {layer.num_kv_heads} key/value heads "
        f"of {layer.head_dim} channels"
    )


def _window(layer: AttentionLayer) -> str:
    return "none" if layer.window is None else f"{layer.window} tokens"


def _rope(rope: dict[str, Any]) -> str:
    words = [f"{rope['type']}, theta {rope['theta']:g}, {rope['rotary_dim']} channels of a head"]
    for name, value in rope.items():
        if name in ("type", "theta", "rotary_dim") or value == _ROPE_DEFAULTS[name]:
            continue
        shown = f"{len(value)} of the file" if name == "freq_factors" else value
        words.append(f"{name} {shown}")
    return ", ".join(words)


def _tensor_tables(groups: list[TensorGroup]) -> Iterator[RenderableType]:
    for (section, stored), members in groupby(groups, lambda g: (g.section, g.stored_section)):
        if section:
            same = "" if stored == section else f" (stored as {stored})"
            yield Text(f"{section}{same}", style="cyan")
        yield _tensor_table(list(members))


def _tensor_table(groups: list[TensorGroup]) -> Table:
    is_renamed = any(group.stored != group.name for group in groups)
    has_rows = any(group.rows for group in groups)
    headings = ["stored", "tensor"] if is_renamed else ["tensor"]
    headings += ["taken by", "shape", "format"]
    headings += ["N"] if groups[0].numbers else []
    headings += ["rows"] if has_rows else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        # Names are folded where there is no room: they must not lose their ends.
        table.add_column(heading, overflow="fold")
    for group in groups:
        cells = [group.stored, group.name] if is_renamed else [group.name]
        cells.append(group.module if group.module is not None else "nothing")
        cells += [" x ".join(map(str, group.shape)), group.format]
        cells += [group.numbers] if groups[0].numbers else []
        cells += [group.rows] if has_rows else []
        table.add_row(*cells, style="red" if group.module is None else None)
    return table


def _memory_rows(report: Inspection) -> Iterator[tuple[str, str]]:
    memory = report.memory
    yield "free", f"{size(memory.free_bytes)} on {report.device}"
    yield "weights", f"{size(memory.weight_bytes)} as {report.dtype}"
    yield (
        "KV cache",
        f"{size(memory.kv_bytes)} for a sequence of {memory.context} tokens, "
        f"{size(memory.kv_bytes_per_token)} a token",
    )
    if memory.context_that_fits:
        yield (
            "fits here",
            f"a context of {memory.context_that_fits} tokens; "
            f"{memory.kv_tokens_that_fit} tokens of all sequences together",
        )
    else:
        yield "fits here", "nothing: weights and a KV cache need more memory than may be used"
