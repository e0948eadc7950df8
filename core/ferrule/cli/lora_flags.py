"""Flags for adapters, and the spellings of them that other servers have taught people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from typer.core import TyperCommand

from ferrule.cli.engine_flags import flag
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError
from ferrule.server.lora_updates import LoraUpdates

_LORA = "Adapters (LoRA)"
_PATHS = "--lora-paths"
_NAMED = re.compile(r"[^-=/\s][^=/\s]*=\S")

EnableLora = Annotated[
    bool | None,
    flag(
        "--enable-lora/--no-enable-lora",
        panel=_LORA,
        help="Serve adapters beside the model. Without it: if --lora-paths names any.",
    ),
]
LoraPaths = Annotated[
    list[str] | None,
    flag(
        _PATHS,
        panel=_LORA,
        metavar="NAME=PATH...",
        help="Adapters to serve from the start: a name for requests and a directory, a .gguf file "
        "or org/name on the Hub. Several may follow one flag, with spaces or commas between.",
    ),
]
MaxLoraRank = Annotated[
    int | None,
    flag(
        "--max-lora-rank",
        panel=_LORA,
        min=1,
        help="Most rank of an adapter. Without it: that of the adapters given, or 64.",
    ),
]
MaxLoras = Annotated[
    int | None,
    flag(
        "--max-loras",
        "--max-num-loras",
        panel=_LORA,
        min=1,
        help="Adapters on the device at a time. Without it: as many as are given, 8 at most; 8 "
        "with --enable-lora-updates.",
    ),
]
MaxCpuLoras = Annotated[
    int,
    flag(
        "--max-cpu-loras",
        panel=_LORA,
        min=1,
        help="Adapters in host memory; others are read again when requests ask for them.",
    ),
]
EnableLoraUpdates = Annotated[
    bool,
    flag(
        "--enable-lora-updates",
        panel=_LORA,
        help="Let clients load and unload adapters while the server runs.",
    ),
]
LoraRoots = Annotated[
    list[Path] | None,
    flag(
        "--lora-root",
        panel=_LORA,
        metavar="DIR",
        help="A directory below which clients may load adapters; may be given several times.",
    ),
]
LoraHubOrgs = Annotated[
    list[str] | None,
    flag(
        "--lora-hub-org",
        panel=_LORA,
        metavar="ORG",
        help="An organisation of the Hub whose adapters clients may load; may be given several "
        "times.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraOptions:
    """What the flags say.

    Attributes:
        is_enabled: Whether adapters are served.
        paths: Names and locations of those to read at the start.
        max_rank: Most rank of an adapter.
        max_on_device: Adapters on the device at a time.
        max_on_host: Adapters in host memory.
        updates: What clients may load; None: they may change nothing.
    """

    is_enabled: bool = False
    paths: tuple[tuple[str, str], ...] = ()
    max_rank: int | None = None
    max_on_device: int | None = None
    max_on_host: int = 64
    updates: LoraUpdates | None = None

    def added_to(self, options: EngineOptions) -> EngineOptions:
        """The engine's options with these."""
        return msgspec.structs.replace(
            options,
            enable_lora=self.is_enabled,
            lora_paths=self.paths,
            enable_lora_updates=self.updates is not None,
            max_lora_rank=self.max_rank,
            max_loras=self.max_on_device,
            max_cpu_loras=self.max_on_host,
        )


def lora_flags(
    enable_lora: EnableLora = None,
    lora_paths: LoraPaths = None,
    max_lora_rank: MaxLoraRank = None,
    max_loras: MaxLoras = None,
    max_cpu_loras: MaxCpuLoras = 64,
    enable_lora_updates: EnableLoraUpdates = False,
    lora_roots: LoraRoots = None,
    lora_hub_orgs: LoraHubOrgs = None,
) -> LoraOptions:
    """The options for adapters from their flags.

    Raises:
        OptionError: They contradict each other, or a name is given twice.
    """
    paths = tuple(each for text in lora_paths or () for each in named_paths(text))
    _check_names([name for name, _ in paths])
    if enable_lora is False and (paths or enable_lora_updates):
        raise OptionError("--no-enable-lora was given together with adapters to serve.")
    if (lora_roots or lora_hub_orgs) and not enable_lora_updates:
        raise OptionError(
            "--lora-root and --lora-hub-org say what clients may load, and they may load nothing.",
            hint="Add --enable-lora-updates.",
        )
    updates = LoraUpdates(roots=tuple(lora_roots or ()), organisations=tuple(lora_hub_orgs or ()))
    return LoraOptions(
        is_enabled=bool(enable_lora or paths or enable_lora_updates),
        paths=paths,
        max_rank=max_lora_rank,
        max_on_device=max_loras,
        max_on_host=max_cpu_loras,
        updates=updates if enable_lora_updates else None,
    )


def named_paths(text: str) -> list[tuple[str, str]]:
    """``a=PATH`` or ``a=PATH,b=PATH``; a path alone is called after its last part."""
    parts: list[str] = []
    for part in text.split(","):
        # A comma may be part of a path; one in front of NAME= parts two adapters.
        if parts and not _NAMED.match(part):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    found: list[tuple[str, str]] = []
    for part in parts:
        name, equals, location = part.partition("=")
        if not part or (equals and not (name and location)):
            raise OptionError(f"{_PATHS} has {part!r}; expected NAME=PATH.")
        if not _NAMED.match(part):
            name, location = Path(part.rstrip("/")).name.removesuffix(".gguf"), part
        found.append((name, location))
    return found


def spread(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--lora-paths`` before each adapter: ``--lora-paths a=A b=B``."""
    out: list[str] = []
    is_listing = False
    for argument in arguments:
        if is_listing and _NAMED.match(argument) and out[-1] != _PATHS:
            out.append(_PATHS)
        elif out and out[-1] != _PATHS:
            is_listing = False
        if argument == _PATHS or argument.startswith(f"{_PATHS}="):
            is_listing = True
        out.append(argument)
    return out


class CommandWithAdapters(TyperCommand):
    """A command in which more than one adapter may follow ``--lora-paths``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the command's arguments."""
        return super().parse_args(ctx, spread(args))


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"{_PATHS} gives the name {twice[0]} to more than one adapter.")
