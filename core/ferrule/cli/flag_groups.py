"""Flags that several commands share, written once as the parameters of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Command = Callable[..., None]


def takes(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Gives a command the flags of some groups.

    With ``@takes(options=engine_flags)`` the command line has the parameters of ``engine_flags``
    in the place of the command's parameter ``options``, and the command gets what
    ``engine_flags`` returns for them.

    Args:
        groups: By the name of the parameter that each one replaces.
    """

    def decorate(command: Command) -> Command:
        flags = {name: _parameters(group) for name, group in groups.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: group(**{flag: given.pop(flag) for flag in flags[name]})
                for name, group in groups.items()
            }
            command(**given, **made)

        merged: list[inspect.Parameter] = []
        for name, parameter in _parameters(command).items():
            merged += flags[name].values() if name in flags else [parameter]
        # typer reads a command's parameters from its signature.
        run.__dict__["__signature__"] = inspect.Signature(
            [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in merged]
        )
        return run

    return decorate


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function, eval_str=True).parameters)
