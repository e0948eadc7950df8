"""Writes the page of the command line from the commands themselves.

``python docs/cli_reference.py`` renews docs/reference/cli.md.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.models

from ferrule.cli.main import app

PAGE = Path(__file__).parent / "reference" / "cli.md"
_HEADER = "| Flag | Value | Default | Environment | |\n|---|---|---|---|---|"
_INTRODUCTION = """\
# Command line

This page is made from the commands' own flags. `ferrule COMMAND --help` shows the same.

Every flag with a variable in its row can be set in the environment instead:
`FERRULE_MAX_LENGTH=4096` is `--max-length 4096`; what is typed wins. `FERRULE_DEBUG=1` shows
where an error was raised.

The exit status is 0 after success, 1 after an error with an explanation, 2 after a wrong flag and
130 after Ctrl-C.
"""


def cli_page() -> str:
    """The page's text."""
    version = "## ferrule --version\n\nShows the version and exits."
    commands = [_command(info.callback) for info in app.registered_commands if info.callback]
    return "\n\n".join((_INTRODUCTION.rstrip(), *commands, version)) + "\n"


def _command(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    arguments = [each for each in parameters if isinstance(_info(each), typer.models.ArgumentInfo)]
    options = [each for each in parameters if _is_shown_option(each)]
    name = function.__name__.replace("_", "-")
    usage = " ".join(("ferrule", name, "[FLAGS]", *map(_optional, arguments)))
    parts = [f"## ferrule {name}", inspect.getdoc(function) or "", f"    {usage}"]
    parts += [f"`{_info(each).metavar}`: {_help(each)}" for each in arguments]
    for panel, members in _panels(options).items():
        rows = "\n".join(map(_row, members))
        parts += [f"**{panel}**", f"{_HEADER}\n{rows}"]
    return "\n\n".join(parts)


def _panels(options: list[inspect.Parameter]) -> dict[str, list[inspect.Parameter]]:
    """Options by the heading that they have in the help; the command's own come first."""
    panels: dict[str, list[inspect.Parameter]] = {"Options": []}
    for each in options:
        panels.setdefault(_info(each).rich_help_panel or "Options", []).append(each)
    return {name: members for name, members in panels.items() if members}


def _info(parameter: inspect.Parameter) -> Any:
    return typing.get_args(parameter.annotation)[1]


def _is_shown_option(parameter: inspect.Parameter) -> bool:
    info = _info(parameter)
    return isinstance(info, typer.models.OptionInfo) and not info.hidden


def _optional(parameter: inspect.Parameter) -> str:
    return f"[{_info(parameter).metavar}]"


def _row(parameter: inspect.Parameter) -> str:
    info = _info(parameter)
    flags = _code(flag for name in _names(parameter) for flag in name.split("/"))
    variable = f"`{info.envvar}`" if info.envvar else ""
    cells = (flags, _value(parameter), _default(parameter), variable, _help(parameter))
    return f"| {' | '.join(cells)} |"


def _names(parameter: inspect.Parameter) -> tuple[str, ...]:
    info = _info(parameter)
    # Within Annotated the first name stands where Option otherwise has the default.
    first = (info.default,) if isinstance(info.default, str) else ()
    return (*first, *info.param_decls) or (f"--{parameter.name.replace('_', '-')}",)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _help(parameter: inspect.Parameter) -> str:
    # Typer's own markup needs a backslash before brackets.
    return (_info(parameter).help or "").replace("\\[", "[")


def _value(parameter: inspect.Parameter) -> str:
    info, kind = _info(parameter), _kind(parameter)
    if kind is bool:
        return ""
    if info.metavar:
        return _code(info.metavar.split("|"))
    if issubclass(kind, Enum):
        return _code(each.value for each in kind)
    words = {int: "integer", float: "number", str: "text", Path: "path"}[kind]
    return " ".join((words, *_range(info.min, info.max)))


def _range(low: float | None, high: float | None) -> Iterator[str]:
    if low is not None and high is not None:
        yield f"from {low:g} to {high:g}"
    elif low is not None:
        yield f"from {low:g}"


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of one value: ``X`` of ``X``, ``X | None`` and ``list[X] | None``."""
    kind = typing.get_args(parameter.annotation)[0]
    while typing.get_origin(kind) in (types.UnionType, typing.Union, list):
        kind = typing.get_args(kind)[0]
    return kind


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value.value if isinstance(value, Enum) else value}`"


if __name__ == "__main__":
    PAGE.write_text(cli_page())
