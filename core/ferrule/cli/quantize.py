"""``ferrule quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ferrule.cli.console import size, stdout
from ferrule.cli.engine_flags import (
    ArchitectureFlag,
    PluginFiles,
    WeightAdapterFlag,
)
from ferrule.cli.progress import start_display
from ferrule.engine.messages import Progress
from ferrule.errors import OptionError

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="What to quantise: a directory, a .gguf file of 16 or 32 bits, or "
        "org/name\\[@revision] on the Hugging Face Hub.",
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.")]
To = Annotated[
    str,
    typer.Option(
        "--to",
        help="The format: q8_0, q6_k, q5_k_m, q4_k_m, q5_1, q5_0, q4_1, q4_0, bf16 or f16.",
    ),
]


def quantize(
    source: Source,
    out: Out,
    to: To,
    architecture: ArchitectureFlag = None,
    weight_adapter: WeightAdapterFlag = None,
    plugin: PluginFiles = None,
) -> None:
    """Write a checkpoint as a GGUF file that ferrule and llama.cpp can serve."""
    if out.suffix != ".gguf" or not out.absolute().parent.is_dir():
        raise OptionError(
            f"{out} cannot be written: a name ending in .gguf in a directory that exists is "
            "expected."
        )
    # torch costs a second to import, which --help need not wait for.
    from ferrule.checkpoint.open import open_checkpoint
    from ferrule.matching import match
    from ferrule.plugins import Plugins
    from ferrule.quantize.recipe import find_recipe
    from ferrule.quantize.write import write_gguf

    recipe = find_recipe(to)
    with start_display(is_transient=True) as display:
        plugins = Plugins.installed(plugin or [])
        display.report(Progress("reading headers", detail=source))
        checkpoint = open_checkpoint(
            source,
            progress=lambda stage, fraction, detail: display.report(
                Progress(stage, fraction, detail)
            ),
        )
        chosen = match(
            checkpoint, plugins, architecture=architecture, weight_adapter=weight_adapter
        )
        written = write_gguf(
            chosen,
            recipe,
            out,
            lambda done, total, name: display.report(
                Progress("quantising", done / max(total, 1), name)
            ),
        )
    formats = ", ".join(f"{count} {name}" for name, count in written.formats.items())
    stdout().print(
        Text(f"written: {out}, {size(written.num_bytes)} of weights ({formats})"), soft_wrap=True
    )
