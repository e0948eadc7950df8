"""``ferrule warm-cache``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ferrule.cli.bench import engine_given
from ferrule.cli.console import size, stdout
from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.flag_groups import takes
from ferrule.cli.kernel_cache import cache_folders, cached_bytes
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError

OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.tar.gz",
        help="Pack the kernels into a file, for machines with the same GPU and versions.",
    ),
]
FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE.tar.gz",
        help="Unpack such a file on this machine, and start nothing. It holds programs: take one "
        "only from where you would take a plugin.",
    ),
]


@takes(engine=engine_given)
def warm_cache(engine: dict[str, Any], out: OutFile = None, from_file: FromFile = None) -> None:
    """Compile what a model needs on this machine, so that servers start without that.

    MODEL is started as serve starts it, and ended when it is ready.
    """
    folders = cache_folders()
    if from_file is not None:
        _refuse_others(engine, out, from_file)
        _unpack(from_file, folders, engine["devices"])
        return
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise OptionError(f"--out {out} cannot be written: it is no file in a directory")
    device = _warm(engine_flags(**engine), folders)
    if out is not None:
        _pack(out, folders, device)


def _warm(options: EngineOptions, folders: Mapping[str, Path]) -> str:
    """Fills the folders and tells of it; returns where the engine ran."""
    # The client's libraries cost time to import, which --help need not wait for.
    from ferrule.cli.warming import start_once

    before = cached_bytes(folders)
    start = start_once(options)
    kept = cached_bytes(folders)
    _say(f"ready after {start.seconds:.1f} s on {start.device}")
    if kept <= before and not start.device.startswith("cuda"):
        _say(f"nothing needs compiling on {start.device}")
    else:
        added = size(kept - before) if kept > before else "nothing"
        _say(f"kernels: {size(kept)} in {_places(folders)}, {added} of it new")
    return start.device


def _pack(file: Path, folders: Mapping[str, Path], device: str) -> None:
    from ferrule.cli.kernel_artefact import made_here, pack

    made_for = made_here(device)
    pack(folders, made_for, file)
    _say(
        f"written: {file}, {size(file.stat().st_size)}, for GPU {made_for.gpu}, ferrule "
        f"{made_for.ferrule}, torch {made_for.torch}, triton {made_for.triton}"
    )


def _unpack(file: Path, folders: Mapping[str, Path], devices: str) -> None:
    from ferrule.cli.kernel_artefact import made_here, unpack
    from ferrule.runtime.device import resolve_device

    unpack(file, folders, made_here(str(resolve_device(devices))))
    _say(f"kernels: {size(cached_bytes(folders))} in {_places(folders)}")


def _refuse_others(engine: dict[str, Any], out: Path | None, file: Path) -> None:
    """What has no meaning with --from is a mistake, but in the environment."""
    from ferrule.bench.child import serve_flags

    is_named = engine["model"] or engine["model_flag"]
    given = ["MODEL"] if is_named else ["--out"] if out is not None else []
    others: dict[str, Any] = {**engine, "model": None, "model_flag": str(file)}
    names = [flag.partition("=")[0] for flag in serve_flags(engine_flags(**others))]
    given += [name for name in names if name not in ("--model", "--devices") and not _is_set(name)]
    if given:
        raise OptionError(
            f"{given[0]} is for a model that is started, and --from {file} starts none",
            hint="With --from only --devices is of use, to say which GPU the kernels are for.",
        )


def _is_set(flag: str) -> bool:
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_").upper()
    return f"FERRULE_{name}" in os.environ


def _places(folders: Mapping[str, Path]) -> str:
    """The folder that both are in, or both."""
    parents = {folder.parent for folder in folders.values()}
    return str(parents.pop()) if len(parents) == 1 else " and ".join(map(str, folders.values()))


def _say(text: str) -> None:
    stdout().print(Text(text), soft_wrap=True)
