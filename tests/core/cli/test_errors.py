from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from ferrule.cli.errors import Commands
from ferrule.errors import MatchError


def run(error, env=None):
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @app.command()
    def other() -> None:
        """A second command, so that there is a group."""

    @app.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(app, ["fail"], env=env)


def test_an_error_of_ours_shows_message_and_hint_without_traceback():
    result = run(MatchError("No [bold] pair\nfits :smile:", hint="Look at [this]"))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: No [bold] pair\nfits :smile:\nhint: Look at [this]\n"


def test_long_messages_are_not_folded_in_files():
    message = "word " * 100
    assert f"error: {message}" in run(MatchError(message)).stderr


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debugging_shows_where_an_error_was_raised(value, shown):
    result = run(MatchError("No pair"), env={"FERRULE_DEBUG": value})
    assert ("Traceback" in result.stderr) is shown
    assert "error: No pair" in result.stderr


def test_ctrl_c_is_quiet():
    result = run(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "")


def test_a_mistake_of_ours_is_not_hidden():
    assert isinstance(run(ZeroDivisionError()).exception, ZeroDivisionError)
