from __future__ import annotations

from typing import Annotated

import typer
from typer.testing import CliRunner

from ferrule.cli.flag_groups import takes


def size_flags(
    width: Annotated[int, typer.Option("--width")] = 2,
    height: Annotated[int, typer.Option("--height")] = 3,
) -> tuple[int, int]:
    return width, height


def colour_flags(colour: Annotated[str, typer.Option("--colour")] = "red") -> str:
    return colour.upper()


@takes(size=size_flags, colour=colour_flags)
def draw(
    name: Annotated[str, typer.Argument()],
    size: tuple[int, int],
    colour: str,
    fast: Annotated[bool, typer.Option("--fast")] = False,
) -> None:
    """Draw a thing."""
    typer.echo(f"{name} {size} {colour} {fast}")


def run(*arguments):
    app = typer.Typer()
    app.command()(draw)
    return CliRunner().invoke(app, arguments)


def test_a_command_gets_what_its_groups_make_of_their_flags():
    result = run("box", "--height", "5", "--colour", "blue", "--fast")
    assert result.stdout == "box (2, 5) BLUE True\n"


def test_flags_that_are_not_given_have_their_groups_defaults():
    assert run("box").stdout == "box (2, 3) RED False\n"


def test_help_is_the_commands_own():
    text = run("--help").stdout
    assert "Draw a thing." in text
    assert [
        flag for flag in ("--width", "--height", "--colour", "--fast") if flag not in text
    ] == []
