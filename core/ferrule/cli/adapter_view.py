"""What ``ferrule inspect`` shows of a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ferrule.cli.console import size, stdout
from ferrule.cli.tensor_groups import ranges
from ferrule.lora.report import AdapterReport, TouchedModules

_CONTAINERS = {"peft": "PEFT", "mistral": "mistral-finetune", "gguf": "GGUF"}


def show_adapter(report: AdapterReport) -> None:
    """Writes the report to stdout."""
    console = stdout()
    title = f"  {_CONTAINERS[report.container]} adapter, {size(report.num_bytes)}"
    console.print(Text.assemble((report.location, "bold"), title), soft_wrap=True)
    _section(console, "Adapter", _grid(list(_rows(report))))
    _section(console, "Modules", _modules(report.touched))
    if report.unused:
        _section(console, "Unused", _grid(list(report.unused.items())))
    if report.notes:
        console.print()
        console.print(Text("Notes", style="bold"))
        for note in report.notes:
            console.print(Padding(Text(note, style="yellow"), (0, 0, 0, 2)))
    console.print()


def _section(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _grid(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _rows(report: AdapterReport) -> Iterator[tuple[str, str]]:
    yield "base", report.base
    if report.trained_on:
        yield "trained on", report.trained_on
    yield "tensors", f"{report.num_tensors}, of which {len(report.unused)} change nothing"
    yield "modules", f"{report.num_modules} changed, largest rank {report.rank}"
    yield "vocabulary", f"{report.vocab_size} rows"
    if report.added_tokens:
        ids = [f"{text} ({number})" for text, number in report.added_tokens.items()]
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        yield "new tokens", ", ".join(ids[:8]) + more


def _modules(touched: list[TouchedModules]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("module", "N", "layers", "rank", "scale", "parts", "size"):
        table.add_column(heading, overflow="fold")
    for each in touched:
        table.add_row(
            each.kind,
            str(each.count),
            ranges(each.layers) if each.layers else "",
            str(each.rank or ""),
            f"{each.scale:g}" if each.rank else "",
            ", ".join(each.parts),
            size(each.num_bytes),
        )
    return table
