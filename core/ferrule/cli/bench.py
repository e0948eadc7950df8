"""``ferrule bench``."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from ferrule import __version__
from ferrule.bench.report import Report
from ferrule.bench.settings import Settings
from ferrule.cli.bench_flags import bench_flags
from ferrule.cli.console import stderr, stdout
from ferrule.cli.engine_flags import engine_flags
from ferrule.cli.flag_groups import takes
from ferrule.cli.progress import start_display
from ferrule.engine.options import EngineOptions
from ferrule.errors import OptionError

_OUTPUT = "Output"

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Measure the server that runs there, of whatever make; --model is then the name to "
        "ask for. Without that: the first of /v1/models.",
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run MODEL in this process, without HTTP.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write all figures.", rich_help_panel=_OUTPUT),
]
PlotFile = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.html", help="Write a page of charts.", rich_help_panel=_OUTPUT
    ),
]


@functools.wraps(engine_flags)
def engine_given(**given: Any) -> dict[str, Any]:
    """The engine's flags as they were given: with --url there is no engine to make of them."""
    return given


@takes(settings=bench_flags, engine=engine_given)
def bench(
    settings: Settings,
    engine: dict[str, Any],
    url: Url = None,
    in_process: InProcess = False,
    json_file: JsonFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Measure throughput and latency under load, of a server or of a checkpoint.

    MODEL is served for as long as it takes. The exit status is 1 if a request failed.
    """
    _check_files(json_file, plot_file)
    options = _engine(engine, url, is_in_process=in_process)
    if in_process:
        _check_in_process(settings)
    report = Report(
        ferrule=__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        mode="url" if url else "in-process" if in_process else "server",
        target=url or engine["model"] or engine["model_flag"],
        engine=options and msgspec.to_builtins(options),
        model=(engine["model_flag"] or "") if url else "",
        settings=settings,
    )
    # asyncio, uvloop and their like cost time that --help need not wait for.
    from ferrule.bench.run import measure

    try:
        with start_display(is_transient=True) as display:
            measure(report, options, display.report)
    finally:
        # After an error or Ctrl-C too: what was measured until then has taken its time.
        if report.points:
            _deliver(report, json_file, plot_file)
    if any(point.failed for point in report.points):
        raise typer.Exit(1)


def _engine(given: dict[str, Any], url: str | None, *, is_in_process: bool) -> EngineOptions | None:
    """The engine to run; None: somebody else's is measured."""
    if url is None:
        if not (given["model"] or given["model_flag"]):
            raise typer.BadParameter(
                "missing; give a checkpoint to serve, or --url of a server that runs.",
                param_hint="MODEL",
            )
        return engine_flags(**given)
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(
            f"{url!r} is no URL such as http://127.0.0.1:8000", param_hint="--url"
        )
    if given["model"] or is_in_process:
        what = "MODEL" if given["model"] else "--in-process"
        raise OptionError(
            f"{what} is for a checkpoint to be run, and --url for a server that runs already",
            hint="Give one of them; with --url, --model NAME is the name to ask for.",
        )
    _refuse_engine_flags(given, url)
    return None


def _refuse_engine_flags(given: dict[str, Any], url: str) -> None:
    from ferrule.bench.child import serve_flags

    named: dict[str, Any] = {**given, "model_flag": url}
    for flag in serve_flags(engine_flags(**named)):
        name = flag.partition("=")[0]
        if name != "--model":
            raise OptionError(f"{name} is for a checkpoint, and the server at {url} runs already")


def _check_in_process(settings: Settings) -> None:
    if settings.models:
        raise OptionError("--lora is for a server, and cannot be given with --in-process")
    if any(load.rate for load in settings.loads):
        raise OptionError("--rate is for a server; --in-process takes --concurrency")


def _check_files(json_file: Path | None, plot_file: Path | None) -> None:
    """Finds out before the measurement, not after it."""
    for flag, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise OptionError(f"{flag} {file} cannot be written: it is no file in a directory")
    if plot_file is not None and plot_file.suffix not in (".html", ".htm"):
        raise OptionError(
            f"--plot {plot_file} has another ending than .html",
            hint="Charts are written as a page.",
        )


def _deliver(report: Report, json_file: Path | None, plot_file: Path | None) -> None:
    from ferrule.bench.page import html_page
    from ferrule.bench.table import error_lines, print_points

    console = stderr()
    title = f"{report.model}: {report.settings.workload.describe()}"
    console.print(Text(title, style="dim"), soft_wrap=True)
    print_points(report.points, stdout())
    for line in error_lines(report.points):
        console.print(Text(line, style="red"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    if json_file is not None:
        _write(
            json_file, msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
        )
    if plot_file is not None:
        _write(plot_file, html_page(report))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{file} cannot be written: {error.strerror}") from error
    stderr().print(Text(f"written: {file}", style="dim"), soft_wrap=True)
