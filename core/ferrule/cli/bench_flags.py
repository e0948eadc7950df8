"""Flags that say under which load to measure, and with which requests."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ferrule.bench.settings import Settings, make_loads
from ferrule.bench.workload import Dataset, FixedLengths, ShareGptLengths, Workload
from ferrule.errors import OptionError

_LOAD, _REQUESTS = "Load", "Requests"
_DEFAULT_CONCURRENCY = (8,)
_T = TypeVar("_T", int, float)


class Distribution(StrEnum):
    """What ``--distribution`` takes."""

    fixed = "fixed"
    sharegpt = "sharegpt"


def _flag(name: str, panel: str, help: str, **settings: Any) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel, **settings)


Concurrency = Annotated[
    str | None,
    _flag(
        "--concurrency",
        _LOAD,
        "Clients that wait for their answers, a point for each number. Without --rate: 8.",
        metavar="N,N,...",
    ),
]
Rate = Annotated[
    str | None,
    _flag(
        "--rate",
        _LOAD,
        "Requests that arrive in a second, at random times (Poisson) and whether others have "
        "ended or not, a point for each number.",
        metavar="R,R,...",
    ),
]
NumRequests = Annotated[
    int | None,
    _flag(
        "--requests",
        _LOAD,
        "Of each point. Without it: 4 for each client, or 30 seconds of arrivals; 16 at least.",
        min=1,
    ),
]
Warmup = Annotated[
    int, _flag("--warmup", _LOAD, "Requests before the first point, not measured.", min=0)
]
Timeout = Annotated[
    float,
    _flag("--timeout", _LOAD, "Seconds that a request over HTTP may take; 0 is no limit.", min=0),
]
InputLen = Annotated[
    int | None, _flag("--input-len", _REQUESTS, "Tokens of a prompt. Without it: 1024.", min=1)
]
OutputLen = Annotated[
    int | None,
    _flag(
        "--output-len",
        _REQUESTS,
        "Tokens of an answer; the model's own end is ignored. Without it: 256, or what the "
        "dataset's answer has.",
        min=1,
    ),
]
SharedPrefix = Annotated[
    int | None,
    _flag("--shared-prefix", _REQUESTS, "How many tokens all prompts begin with.", min=0),
]
Vocab = Annotated[
    int | None,
    _flag(
        "--vocab",
        _REQUESTS,
        "Prompts are token ids from 1000 up to this. Without it: 32000.",
        min=2,
    ),
]
DistributionFlag = Annotated[
    Distribution,
    _flag(
        "--distribution",
        _REQUESTS,
        "Of lengths: fixed, or like ShareGPT's, log-normal with about 230 tokens in and 203 out.",
    ),
]
DatasetFile = Annotated[
    Path | None,
    _flag(
        "--dataset",
        _REQUESTS,
        "Take prompts from a file in ShareGPT's format.",
        exists=True,
        dir_okay=False,
        metavar="FILE",
    ),
]
Lora = Annotated[
    str | None,
    _flag(
        "--lora", _REQUESTS, "Names of adapters that requests ask for in turn.", metavar="A,B,..."
    ),
]
Temperature = Annotated[float, _flag("--temperature", _REQUESTS, "0 is greedy.", min=0, max=2)]
Seed = Annotated[
    int,
    _flag(
        "--seed",
        _REQUESTS,
        "Of prompts and arrivals. Another one gives prompts that no cache has seen.",
    ),
]


def bench_flags(
    concurrency: Concurrency = None,
    rate: Rate = None,
    num_requests: NumRequests = None,
    warmup: Warmup = 2,
    timeout: Timeout = 600.0,
    input_len: InputLen = None,
    output_len: OutputLen = None,
    shared_prefix: SharedPrefix = None,
    vocab: Vocab = None,
    distribution: DistributionFlag = Distribution.fixed,
    dataset: DatasetFile = None,
    lora: Lora = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> Settings:
    """The settings of a measurement from their flags.

    Raises:
        typer.BadParameter: A list cannot be read.
        OptionError: Flags contradict each other.
    """
    clients = _numbers("--concurrency", concurrency, int)
    rates = _numbers("--rate", rate, float)
    given = {
        "input_len": input_len,
        "output_len": output_len,
        "shared_prefix": shared_prefix,
        "vocab": vocab,
    }
    lengths = {name: value for name, value in given.items() if value is not None}
    return Settings(
        loads=make_loads(clients or (() if rates else _DEFAULT_CONCURRENCY), rates, num_requests),
        workload=_workload(distribution, dataset, lengths),
        models=tuple(lora.split(",")) if lora else (),
        warmup=warmup,
        seed=seed,
        temperature=temperature,
        timeout=timeout,
    )


def _workload(
    distribution: Distribution, dataset: Path | None, lengths: dict[str, int]
) -> Workload:
    """Fixed lengths, a distribution or a file, with those flags that it has."""
    if dataset is not None:
        if distribution is not Distribution.fixed:
            raise OptionError(
                "--dataset and --distribution both say how long requests are; give one"
            )
        _refuse(lengths, "--dataset", ("input_len", "shared_prefix", "vocab"))
        return Dataset(file=str(dataset), **lengths)
    if distribution is Distribution.sharegpt:
        _refuse(lengths, "--distribution sharegpt", ("input_len", "output_len"))
        return ShareGptLengths(**lengths)
    return FixedLengths(**lengths)


def _refuse(lengths: dict[str, int], chosen: str, foreign: tuple[str, ...]) -> None:
    for name in foreign:
        if name in lengths:
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} cannot be given with {chosen}, which has prompts of its own")


def _numbers(flag: str, text: str | None, kind: Callable[[str], _T]) -> tuple[_T, ...]:
    """``1,8,64``."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers such as 1,8,64.", param_hint=flag
        ) from error
