"""``ferrule merge``."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from ferrule.cli.console import size, stderr
from ferrule.cli.engine_flags import ArchitectureFlag, PluginFiles, WeightAdapterFlag, flag
from ferrule.cli.progress import start_display
from ferrule.engine.messages import Progress
from ferrule.engine.options import EngineOptions
from ferrule.errors import LoadError

BaseModel = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help="A directory with safetensors, or org/name\\[@revision] on the Hugging Face Hub.",
    ),
]
AdapterPath = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER", help="A LoRA adapter: a directory, a .gguf file, or org/name."
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; must be new.")]
MaxShardSize = Annotated[
    float, flag("--max-shard-size", min=0.000001, help="Most gigabytes of one file of weights.")
]


def merge(
    base: BaseModel,
    adapter: AdapterPath,
    out: Out,
    max_shard_size: MaxShardSize = 5.0,
    architecture: ArchitectureFlag = None,
    weight_adapter: WeightAdapterFlag = None,
    plugins: PluginFiles = None,
) -> None:
    """Merge a LoRA adapter into its base model, and write one model in safetensors."""
    gc.disable()
    from ferrule.inspection import inspect_checkpoint, open_base
    from ferrule.lora import merge_adapter, open_adapter

    gc.enable()
    options = EngineOptions(
        model=base,
        architecture=architecture,
        weight_adapter=weight_adapter,
        plugins=tuple(str(path) for path in plugins or ()),
        devices="cpu",
    )
    with start_display(is_transient=True) as display:

        def report(stage: str, fraction: float | None, detail: str) -> None:
            display.report(Progress(stage, fraction, detail))

        opened_base = open_base(options, progress=report)
        opened = open_adapter(adapter, base=opened_base, merging=True, progress=report)
        merged = merge_adapter(
            opened_base,
            opened,
            out,
            max_shard_bytes=int(max_shard_size * 1e9),
            progress=lambda done, total: report(
                "merging", done / max(total, 1), f"{size(done)} of {size(total)}"
            ),
        )
        result = inspect_checkpoint(
            EngineOptions(
                model=str(out),
                architecture=architecture,
                weight_adapter=weight_adapter,
                plugins=options.plugins,
                devices="cpu",
            )
        )
    if result.problems:
        raise LoadError(result.problems, hint=result.hint)
    console = stderr()
    merged_in = f"{opened.report.summary()} in {', '.join(opened.report.kinds)}"
    console.print(f"Merged {merged_in}.", soft_wrap=True)
    for note in opened.report.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    if merged.is_untied:
        console.print("The head is a matrix of its own now (tie_word_embeddings is false).")
    console.print(
        f"{out}: {merged.num_tensors} tensors, {merged.num_changed} modules changed, "
        f"{size(merged.num_bytes)} in {len(merged.files)} file(s), under the base's names.",
        soft_wrap=True,
    )
